"""Which channels a user takes notice of. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from tidings.model.receipt import EventCause

#: the channel whose items are seen and read
FEED_CHANNEL: Final = "inapp"
#: what users did before counts for no selection of channels
ENGAGEMENT_PERIOD: Final = timedelta(days=30)
#: events that say that a person took notice; those of machines do not count
ENGAGEMENT_CAUSES: Final = (EventCause.OPEN.value, EventCause.CLICK.value)


@dataclass(frozen=True, slots=True)
class ChannelEngagement:
    """What a user did with the messages of one channel: opens and clicks by people, items seen or read."""

    count: int
    last_at: datetime

    def merge(self, other: "ChannelEngagement") -> "ChannelEngagement":
        """Return both together."""
        return ChannelEngagement(self.count + other.count, max(self.last_at, other.last_at))


#: user id → channel → what the user did
EngagementByUser = Mapping[str, Mapping[str, ChannelEngagement]]
NO_ENGAGEMENT: EngagementByUser = MappingProxyType({})


def rank_channels(by_channel: Mapping[str, ChannelEngagement]) -> list[str]:
    """Return the channels, the most engaged one first: by count, then by the last time, then by name."""
    return sorted(by_channel, key=lambda name: (-by_channel[name].count, -by_channel[name].last_at.timestamp(), name))


def select_channel(names: Sequence[str], by_channel: Mapping[str, ChannelEngagement]) -> str:
    """Return the most engaged of some channels, the first of them if the user was engaged on none."""
    return next((name for name in rank_channels(by_channel) if name in names), names[0])
