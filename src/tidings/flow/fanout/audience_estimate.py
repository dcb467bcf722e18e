"""Estimate of an audience: who is reached on which channel, and who is excluded why, over planned pages. Pure.

The decisions are those of the plan: a page is planned as for a notification, and nothing is stored.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tidings.flow.fanout.planner import Plan
from tidings.model.audience import Audience
from tidings.model.channel_engagement import ChannelEngagement, rank_channels
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.priority import Priority

#: users whose ids are returned, as a sample
SAMPLE_SIZE = 20


@dataclass(frozen=True, slots=True)
class ChannelReach:
    """How many users are reached on a channel. Both together are the users examined."""

    reachable: int
    #: reason → users that are excluded for it
    excluded: Mapping[SkipReason, int]


@dataclass(frozen=True, slots=True)
class AudienceEstimate:
    """The estimate of an audience, or of a part of it."""

    #: users in the audience; None = not counted, because this is not the first part
    size: int | None
    #: users that the figures below cover
    examined: int
    #: of these: reached on at least one channel
    reachable: int
    by_channel: Mapping[str, ChannelReach]
    #: the first users examined
    sample: Sequence[str]
    #: the last user examined, None if no more follow
    cursor: str | None


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What is known of the users of an audience on a channel."""

    #: users that have an address or a device, or need none
    contactable: int
    #: users that did something with a message of the channel
    engaged: int
    #: users whose most engaged channel it is
    most_engaged: int


@dataclass(frozen=True, slots=True)
class AudienceStatistics:
    """Statistics of an audience, or of a part of it."""

    #: as in `AudienceEstimate`
    size: int | None
    examined: int
    #: of these: engaged on at least one channel
    engaged: int
    by_channel: Mapping[str, ChannelStatistics]
    cursor: str | None


def build_probe(audience: Audience, category: str, channels: Sequence[str], now: datetime) -> Notification:
    """Return a notification for planning alone. It is due now, on a category and on channels (none = every one)."""
    return Notification(
        id=new_id(now),
        template_code="",
        template_version=1,
        category=category,
        audience=audience,
        variables={},
        priority=Priority.NORMAL,
        channels=tuple(channels),
        action_url=None,
        action_text=None,
        send_at=now,
        expires_at=now + timedelta(days=1),
        created_at=now,
    )


class ReachCounter:
    """Sums up planned pages."""

    def __init__(self, channels: Sequence[str]) -> None:
        """channels: those that the notification would use."""
        self._channels = channels
        self._examined = 0
        self._reachable_users = 0
        self._reachable: Counter[str] = Counter()
        self._excluded: defaultdict[str, Counter[SkipReason]] = defaultdict(Counter)
        self._sample: list[str] = []

    def add_page(self, page: Sequence[Recipient], plan: Plan, suppressed: Collection[str]) -> None:
        """Add a planned page. suppressed: ids of the contact points to which nothing would be sent."""
        reached: set[tuple[str, str]] = set()
        excluded: dict[tuple[str, str], SkipReason] = {
            (skip.user_id, skip.channel): skip.reason for skip in plan.skipped
        }
        for delivery in plan.planned:
            key = (delivery.user_id, delivery.channel)
            if delivery.target_id in suppressed:
                excluded[key] = SkipReason.SUPPRESSED
            else:
                # a second address of a user on the channel may be suppressed
                reached.add(key)
        self._examined += len(page)
        self._reachable_users += len({user_id for user_id, _ in reached})
        self._reachable.update(channel for _, channel in reached)
        for (user_id, channel), reason in excluded.items():
            if (user_id, channel) not in reached:
                self._excluded[channel][reason] += 1
        self._sample.extend(recipient.user_id for recipient in page[: SAMPLE_SIZE - len(self._sample)])

    def result(self, *, size: int | None, cursor: str | None) -> AudienceEstimate:
        """Return the sums so far."""
        return AudienceEstimate(
            size,
            self._examined,
            self._reachable_users,
            {name: ChannelReach(self._reachable[name], dict(self._excluded[name])) for name in self._channels},
            tuple(self._sample),
            cursor,
        )


class StatisticsCounter:
    """Sums up pages of users with their engagement."""

    def __init__(self, channels: Sequence[str], needs_contact_point: Callable[[str], bool]) -> None:
        """channels: the configured ones. needs_contact_point: whether a channel needs an address of the user."""
        self._channels = channels
        self._needs_contact_point = needs_contact_point
        self._examined = 0
        self._engaged_users = 0
        self._contactable: Counter[str] = Counter()
        self._engaged: Counter[str] = Counter()
        self._most_engaged: Counter[str] = Counter()

    def add_page(self, page: Sequence[Recipient], engagement: Mapping[str, Mapping[str, ChannelEngagement]]) -> None:
        """Add a page. engagement: user id → channel → what the user did; users who did nothing are left out."""
        self._examined += len(page)
        for recipient in page:
            self._contactable.update(self._list_contactable(recipient))
            if ranked := rank_channels(engagement.get(recipient.user_id, {})):
                self._engaged_users += 1
                self._engaged.update(ranked)
                self._most_engaged[ranked[0]] += 1

    def _list_contactable(self, recipient: Recipient) -> Iterable[str]:
        return (name for name in self._channels if recipient.targets.get(name) or not self._needs_contact_point(name))

    def result(self, *, size: int | None, cursor: str | None) -> AudienceStatistics:
        """Return the sums so far. Channels that are not configured any more are listed if they were engaged on."""
        names = dict.fromkeys((*self._channels, *sorted(self._engaged)))
        return AudienceStatistics(
            size,
            self._examined,
            self._engaged_users,
            {
                name: ChannelStatistics(self._contactable[name], self._engaged[name], self._most_engaged[name])
                for name in names
            },
            cursor,
        )
