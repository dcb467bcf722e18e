"""Which channels a user takes notice of. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from tidings.model.receipt import EventCause

#: the channel whose items are seen and read
FEED_CHANNEL: Final = "inapp"
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


def rank_channels(by_channel: Mapping[str, ChannelEngagement]) -> list[str]:
    """Return the channels, the most engaged one first: by count, then by the last time, then by name."""
    return sorted(by_channel, key=lambda name: (-by_channel[name].count, -by_channel[name].last_at.timestamp(), name))
