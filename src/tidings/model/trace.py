"""What happened, as read back: deliveries with their attempts, and skips. The raw material of explain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tidings.model.delivery import DeliveryState, SkipReason


@dataclass(frozen=True, slots=True)
class AttemptTrace:
    """One recorded try."""

    number: int
    #: `delivered`, `deferred`, `refused`, `gone`, `skipped`
    outcome: str
    why: str
    #: the provider's status code
    status: int | None
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryTrace:
    """One delivery with all its tries."""

    id: str
    user_id: str
    channel: str
    target_id: str
    #: what the user calls the device, and the push service's host; None once the subscription is erased
    target_label: str | None
    state: DeliveryState
    rule: str
    why: str | None
    due_at: datetime
    created_at: datetime
    updated_at: datetime
    attempts: Sequence[AttemptTrace]


@dataclass(frozen=True, slots=True)
class SkipTrace:
    """One recorded skip."""

    id: str
    user_id: str
    channel: str
    reason: SkipReason
    detail: Mapping[str, object]
    created_at: datetime
