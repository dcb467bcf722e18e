"""A digest: notifications that are collected for a user during a window and closed into one notification."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec

from tidings.model.delivery import PlannedDelivery, SkipReason, SkipRecord

#: in the detail of an item that a digest contains: channel → reason and inputs of the rule that was against it there
LEFT_OUT_ON = "leftOutOn"


class DigestState(StrEnum):
    """Whether a digest collects, and what became of it."""

    #: collects
    OPEN = "open"
    #: became a notification
    CLOSED = "closed"
    #: nothing was left when it closed
    EMPTY = "empty"


class DigestItemState(StrEnum):
    """What became of an item of a digest."""

    #: in a digest that is open
    COLLECTED = "collected"
    #: in the notification that its digest became
    DIGESTED = "digested"
    #: left out when its digest closed
    LEFT_OUT = "left_out"


class DigestKey(NamedTuple):
    """What identifies the open digest that a notification is collected into."""

    user_id: str
    template_code: str
    #: of the rule that collects; does not depend on the version of the template or on the window
    rule_id: str
    #: the value of the key expression
    key: str


class DigestWindow(NamedTuple):
    """When a digest closes."""

    closes_at: datetime
    #: a sliding window is not extended beyond; None = it does not slide
    latest_close_at: datetime | None = None
    #: items that are overdue for longer are left out; None = it closes however late
    catch_up: timedelta | None = None


class CollectedItem(msgspec.Struct, frozen=True):
    """A notification that is collected for a user, not stored yet."""

    notification_id: str
    key: DigestKey
    category: str
    accepted_at: datetime
    #: of the digest that it opens, if there is none
    window: DigestWindow
    #: the digest closes early with so many items; None = it does not
    max_items: int | None = None
    #: whether it is sent at once if it opens the digest
    first_at_once: bool = False
    #: what is sent if it is sent at once, per target, and the skips of the other channels
    deliveries: Sequence[PlannedDelivery] = ()
    skips: Sequence[SkipRecord] = ()
    #: the digest that collects it; None before that is known
    digest_id: str | None = None


class Digest(msgspec.Struct, frozen=True):
    """A stored digest."""

    id: str
    key: DigestKey
    category: str
    opened_at: datetime
    closes_at: datetime
    state: DigestState
    #: collected items, those left out when it closed included
    item_count: int
    closed_at: datetime | None = None
    #: what it became
    notification_id: str | None = None
    #: version of the template that rendered its items
    template_version: int | None = None
    #: items that are overdue for longer are left out; None = it closes however late
    catch_up: timedelta | None = None

    def is_overdue(self, item: "DigestItem", now: datetime) -> bool:
        """Return whether an item is too old to be sent. One that joined a digest that was overdue is younger."""
        return self.catch_up is not None and now - max(self.closes_at, item.accepted_at) > self.catch_up

    @property
    def reason(self) -> SkipReason | None:
        """Why it was not sent, None if it was or is open."""
        return SkipReason.EMPTY_DIGEST if self.state is DigestState.EMPTY else None


class DigestItem(msgspec.Struct, frozen=True):
    """A stored item of a digest."""

    digest_id: str
    notification_id: str
    user_id: str
    accepted_at: datetime
    state: DigestItemState = DigestItemState.COLLECTED
    #: why it was left out
    reason: SkipReason | None = None
    #: the inputs of that decision, JSON values only
    detail: Mapping[str, object] = msgspec.field(default_factory=dict)
    #: the user has seen or read the notification in the feed
    is_seen: bool = False
    #: the newer notification on the subject that superseded it for this user, not for all users
    superseded_by: str | None = None


class DueDigests(NamedTuple):
    """Digests that are due, locked until the transaction ends, with their items."""

    digests: Sequence[Digest]
    #: digest id → its items in the order of (accepted at, notification id)
    items: Mapping[str, Sequence[DigestItem]]


class ClosedDigest(NamedTuple):
    """What became of a digest when it closed."""

    digest_id: str
    #: None = nothing was left
    notification_id: str | None
    #: None = its template is no longer installed
    template_version: int | None
    #: all items, in their final states
    items: Sequence[DigestItem]
