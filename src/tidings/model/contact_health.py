"""The health of contact points on channels that disable those to which every attempt fails."""

from datetime import datetime, timedelta

import msgspec


class ContactResult(msgspec.Struct, frozen=True):
    """What a batch of outcomes says of a contact point."""

    contact_point_id: str
    #: version that was tried
    version: int
    #: failures since the last success of the batch
    failures: int
    #: whether an attempt succeeded
    is_reached: bool = False
    #: the first of the failures, None without one
    failing_since: datetime | None = None
    last_error: str | None = None
    #: it asked for no more messages
    is_refusing: bool = False
    #: None = the channel disables no contact points
    disable_after: timedelta | None = None


class DisabledContactPoint(msgspec.Struct, frozen=True):
    """A contact point that was just disabled."""

    id: str
    user_id: str
    channel: str
    label: str | None
    #: the first of the failures in a row
    failing_since: datetime
    last_error: str
    #: it asked for no more messages; False = every attempt failed for days
    is_refusing: bool


class ContactHealth(msgspec.Struct, frozen=True):
    """The failures of a contact point since its last success."""

    failing_since: datetime | None = None
    failures: int = 0
    last_error: str | None = None
    #: from when on messages were missed, None = none were
    missed_since: datetime | None = None


class MissedMessages(msgspec.Struct, frozen=True):
    """Messages that a contact point missed and that can still be sent."""

    #: deliveries that ended without success
    delivery_ids: tuple[str, ...] = ()
    #: notifications that were not planned for it
    notification_ids: tuple[str, ...] = ()
    #: whether there are more than the limit
    has_more: bool = False

    @property
    def count(self) -> int:
        """The number of messages."""
        return len(self.delivery_ids) + len(self.notification_ids)
