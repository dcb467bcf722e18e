"""A delivery (one notification × one user × one channel × one target) on its way from planning to its outcome."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, TypeAlias

import msgspec

from tidings.model.contact_point import ContactPoint
from tidings.model.outcome import Outcome
from tidings.model.preference import Preference
from tidings.model.priority import Lane, Priority
from tidings.model.subscription import PushSubscription
from tidings.model.suppression import Suppression
from tidings.model.user_schedule import NO_SCHEDULE, UserSchedule

#: where a message is sent
Target: TypeAlias = PushSubscription | ContactPoint


class DeliveryState(StrEnum):
    #: waits for its due time or for a worker
    PENDING = "pending"
    #: claimed by a worker under a lease
    SENDING = "sending"
    # all others are final
    DELIVERED = "delivered"
    REFUSED = "refused"
    GONE = "gone"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    #: rejected by the preflight check: something changed after planning (preference off, ticket returned)
    SKIPPED = "skipped"
    #: the provider may have taken it before it fell silent; it is not sent again
    UNCERTAIN = "uncertain"
    #: a dead letter that an operator discarded
    DISCARDED = "discarded"


FINAL_STATES = frozenset(DeliveryState) - {DeliveryState.PENDING, DeliveryState.SENDING}


class SkipReason(StrEnum):
    """Why a recipient receives nothing on a channel. docs/reference/skips.md explains each."""

    PREFERENCE_OFF = "preference_off"
    NOT_OPTED_IN = "not_opted_in"
    NO_DEVICE = "no_device"
    NO_CONTACT_POINT = "no_contact_point"
    CHANNEL_NOT_SET_UP = "channel_not_set_up"
    LEFT_AUDIENCE = "left_audience"
    EXPIRED = "expired"
    USER_ERASED = "user_erased"
    RENDER_FAILED = "render_failed"
    CANCELLED = "cancelled"
    RATE_LIMITED = "rate_limited"
    #: over the throttle of the notification or its template
    THROTTLED = "throttled"
    #: the notification uses one channel, and the user was more engaged on another
    NOT_MOST_ENGAGED = "not_most_engaged"
    #: a newer notification on the same subject was accepted
    SUPERSEDED = "superseded"
    #: the user last heard the same of the subject
    ALREADY_INFORMED = "already_informed"
    DEVICE_REPLACED = "device_replaced"
    #: the address bounced, complained or opted out, or an operator suppressed it
    SUPPRESSED = "suppressed"
    #: the user saw the message, or did what its later step waited for
    STEP_CANCELLED = "step_cancelled"
    #: the user had seen it in the feed before its digest closed
    SEEN = "seen"
    #: nothing was left of a digest when it closed
    EMPTY_DIGEST = "empty_digest"
    #: no process closed its digest in time
    DIGEST_OVERDUE = "digest_overdue"
    #: a rule of a pack
    PACK_RULE = "pack_rule"


def superseded_detail(notification_id: str) -> Mapping[str, object]:
    """Return the detail of a skip with the reason `superseded`."""
    return {"supersededBy": notification_id}


class Recipient(msgspec.Struct, frozen=True):
    """One user of an audience page, with the data that planning needs."""

    user_id: str
    locale: str
    timezone: str
    #: those of the user that may apply to the notification, on all channels
    preferences: Sequence[Preference]
    #: ids of the user's targets, per channel
    targets: Mapping[str, Sequence[str]]
    schedule: UserSchedule = NO_SCHEDULE
    #: id of a target → the time zone that the device reported, of those that did
    target_timezones: Mapping[str, str] = msgspec.field(default_factory=dict)


class PlannedDelivery(msgspec.Struct, frozen=True):
    """A planned delivery that is not stored yet."""

    id: str
    notification_id: str
    user_id: str
    channel: str
    #: id of the target in its own table (push subscription id)
    target_id: str
    #: deliveries with the same batch id are sent by one task; None = it waits until it is due
    batch_id: str | None
    lane: Lane
    due_at: datetime
    #: the consent rule, see `ConsentDecision.rule`: `on by default`, `turned on by the user`
    rule: str
    #: the rule that holds it until it is due; None = it is due at once
    held_by: str | None = None
    #: the inputs of that rule, JSON values only
    detail: Mapping[str, object] | None = None


class SkipRecord(msgspec.Struct, frozen=True):
    """A recipient who receives nothing on a channel, with the reason. Skips are always stored."""

    #: the outcome in metrics
    label: ClassVar[str] = "skipped"

    notification_id: str
    user_id: str
    channel: str
    reason: SkipReason
    #: the inputs of the decision, JSON values only
    detail: Mapping[str, object] = msgspec.field(default_factory=dict)


class HoldRecord(msgspec.Struct, frozen=True):
    """A claimed delivery that must wait: a rule of the plan holds it until a time. Nothing was sent."""

    #: the outcome in metrics
    label: ClassVar[str] = "held"

    until: datetime
    #: the rule that holds it
    rule: str
    #: the inputs of the decision, JSON values only
    detail: Mapping[str, object] = msgspec.field(default_factory=dict)
    why: str = "held by a rule of the plan"


class ClaimedDelivery(msgspec.Struct, frozen=True):
    """A claimed delivery with the data needed to send it, as read by the claim."""

    id: str
    notification_id: str
    user_id: str
    channel: str
    #: None when the target was removed since planning
    target: Target | None
    #: None when the user was erased since planning
    locale: str | None
    timezone: str | None
    #: those of the user that may apply to it, as of the claim
    preferences: Sequence[Preference]
    #: attempts already spent
    attempts: int
    #: fencing token: an outcome is only recorded with it
    lease_token: str
    #: end of the lease; no other worker sends the delivery before
    lease_until: datetime
    #: when it was planned
    created_at: datetime
    #: the notification was cancelled since planning
    is_cancelled: bool = False
    #: id of the newer notification that superseded it since planning
    superseded_by: str | None = None
    #: of the address of its target; those that were lifted are left out
    suppressions: Sequence[Suppression] = ()
    schedule: UserSchedule = NO_SCHEDULE
    #: IANA name that the device reported; None = none
    device_timezone: str | None = None
    #: the rule of the plan that has held it
    held_by: str | None = None
    #: the user has seen or read the notification in the feed; read for held deliveries only
    is_seen: bool = False
    #: what cancelled the later step that it belongs to
    step_ended_by: str | None = None


class OutboundMessage(msgspec.Struct, frozen=True):
    """One encoded message for a channel to send."""

    delivery_id: str
    notification_id: str
    target: Target
    #: encoded for the channel (push: the JSON payload)
    payload: bytes
    priority: Priority
    expires_at: datetime
    attempt: int
    #: a message replaces an earlier one with the same key where it is shown
    collapse_key: str


class AttemptResult(msgspec.Struct, frozen=True):
    """One attempt with its outcome, ready to be recorded."""

    delivery_id: str
    notification_id: str
    user_id: str
    channel: str
    target_id: str | None
    lease_token: str
    #: 1 for the first attempt
    number: int
    outcome: Outcome | SkipRecord | HoldRecord
    #: expiry of the notification: nothing is retried after it
    expires_at: datetime
    started_at: datetime
    finished_at: datetime
    #: version of the target when it was claimed
    target_version: int | None = None
    #: whether later steps of the notification may wait for this one
    has_steps: bool = False
