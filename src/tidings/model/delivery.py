"""One notification × one user × one channel × one target, and what became of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from tidings.model.outcome import Outcome
from tidings.model.priority import Lane, Priority
from tidings.model.subscription import PushSubscription


class DeliveryState(StrEnum):
    #: waits for its time or its turn
    PENDING = "pending"
    #: claimed by a worker under a lease
    SENDING = "sending"
    # the rest are final
    DELIVERED = "delivered"
    REFUSED = "refused"
    GONE = "gone"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    #: something changed between planning and sending (preference off, ticket returned)
    SKIPPED = "skipped"
    #: refused, and taken off the list of dead letters by an operator
    DISCARDED = "discarded"


FINAL_STATES = frozenset(DeliveryState) - {DeliveryState.PENDING, DeliveryState.SENDING}


class SkipReason(StrEnum):
    """Why a recipient gets nothing. Each has one sentence in the reference (docs/reference/skips.md)."""

    PREFERENCE_OFF = "preference_off"
    NOT_OPTED_IN = "not_opted_in"
    NO_DEVICE = "no_device"
    CHANNEL_NOT_SET_UP = "channel_not_set_up"
    LEFT_AUDIENCE = "left_audience"
    EXPIRED = "expired"
    USER_ERASED = "user_erased"
    RENDER_FAILED = "render_failed"
    CANCELLED = "cancelled"
    RATE_LIMITED = "rate_limited"


class Recipient(msgspec.Struct, frozen=True):
    """One user of an audience page with what planning needs to know about them."""

    user_id: str
    locale: str
    timezone: str
    #: the user's own choices for the notification's category, per channel
    choices: Mapping[str, bool]
    #: where the user can be reached, per channel: ids of targets
    targets: Mapping[str, Sequence[str]]


class Planned(msgspec.Struct, frozen=True):
    """A delivery as planned, about to be stored."""

    id: str
    notification_id: str
    user_id: str
    channel: str
    #: id of the target in its own table (push subscription id)
    target_id: str
    #: deliveries that travel together in one task
    batch_id: str
    lane: Lane
    due_at: datetime
    #: the rule that let it through: `on by default`, `turned on by the user`, `mandatory`
    rule: str


class Skipped(msgspec.Struct, frozen=True):
    """A recipient (on one channel) who gets nothing, and why. Kept, never silent."""

    notification_id: str
    user_id: str
    channel: str
    reason: SkipReason
    #: the inputs of the decision, JSON values only
    detail: Mapping[str, object] = msgspec.field(default_factory=dict)


class Due(msgspec.Struct, frozen=True):
    """A claimed delivery with what is needed to send it, looked up at the moment of sending."""

    id: str
    notification_id: str
    user_id: str
    channel: str
    #: None when the target was removed since planning
    target: PushSubscription | None
    #: None when the user was erased since planning
    locale: str | None
    timezone: str | None
    #: the user's own choice now; None = none made
    preference: bool | None
    #: attempts already spent
    attempts: int
    #: only the holder of the token may record the outcome …
    lease_token: str
    #: … and only until then is nobody else sending it
    lease_until: datetime
    #: when it was planned; the older, the more may have changed since
    planned_at: datetime
    #: the notification was cancelled since planning
    cancelled: bool = False


class Message(msgspec.Struct, frozen=True):
    """What deliver hands to a channel."""

    delivery_id: str
    notification_id: str
    target: PushSubscription
    #: encoded for the channel (push: the JSON payload)
    payload: bytes
    priority: Priority
    expires_at: datetime
    attempt: int


class Attempted(msgspec.Struct, frozen=True):
    """One try at a delivery with its outcome, ready to be recorded."""

    delivery_id: str
    notification_id: str
    user_id: str
    channel: str
    target_id: str | None
    lease_token: str
    #: 1 for the first try
    number: int
    outcome: Outcome | Skipped
    #: of the notification: no retry comes after it
    expires_at: datetime
    started_at: datetime
    finished_at: datetime
