"""The stored history: deliveries with their attempts, and skips. Input of explain and of exports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.engagement import Engagement, compute_engagement
from tidings.model.receipt import Receipt, ReceiptStatus, compute_status


@dataclass(frozen=True, slots=True)
class AttemptTrace:
    """One recorded attempt."""

    number: int
    #: `delivered`, `deferred`, `refused`, `gone`, `skipped`
    outcome: str
    why: str
    #: the provider's status code
    status: int | None
    started_at: datetime
    finished_at: datetime
    #: the account that carried the message, and its id there
    provider: str | None = None
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryTrace:
    """One delivery with all its attempts."""

    id: str
    notification_id: str
    user_id: str
    channel: str
    target_id: str
    #: the user's name for the device and the push host; None after the subscription was deleted
    target_label: str | None
    state: DeliveryState
    rule: str
    why: str | None
    due_at: datetime
    created_at: datetime
    updated_at: datetime
    attempts: Sequence[AttemptTrace]
    #: the inputs of the decision, if a rule holds it or the preflight check skipped it
    detail: Mapping[str, object] = field(default_factory=dict)
    #: the rule that holds it until it is due
    held_by: str | None = None
    #: what the provider reported since, the oldest first
    receipts: Sequence[Receipt] = ()
    #: the number of messages that the provider made of it: the segments of an SMS
    parts: int = 1

    @property
    def receipt_status(self) -> ReceiptStatus | None:
        """The status that the receipts say, None without any."""
        return compute_status(self.receipts, self.parts)

    @property
    def engagement(self) -> Engagement | None:
        """Opens and clicks by people and by machines, None if there were none or they are not tracked."""
        return compute_engagement(self.receipts)


@dataclass(frozen=True, slots=True)
class SkipTrace:
    """One recorded skip."""

    id: str
    notification_id: str
    user_id: str
    channel: str
    reason: SkipReason
    detail: Mapping[str, object]
    created_at: datetime
