"""Response models for notifications, deliveries and skips."""

from datetime import datetime
from typing import Self

from pydantic import Field, JsonValue

from tidings.model.audience import to_json
from tidings.model.engagement import Engagement
from tidings.model.notification import Notification, NotificationCounts
from tidings.model.trace import AttemptTrace
from tidings.schemas.response_models import ResponseModel


class AcceptedResponse(ResponseModel):
    """An accepted or cancelled notification."""

    id: str
    status: str


class NotificationResponse(ResponseModel):
    """One notification and its progress."""

    id: str
    status: str
    template_code: str
    template_version: int
    category: str
    priority: str
    audience: dict[str, JsonValue]
    variables: dict[str, JsonValue]
    channels: list[str]
    action_url: str | None
    action_text: str | None
    send_at: datetime
    expires_at: datetime
    created_at: datetime
    source: str | None
    #: what it is about; a newer notification on the same subject supersedes it
    subject: str | None
    subject_version: int | None
    #: id of the newer notification that superseded it
    superseded_by: str | None
    recipients: int
    deliveries: int
    skipped: int
    #: recipients for whom it was collected into a digest
    collected: int

    @classmethod
    def from_notification(cls, notification: Notification) -> Self:
        """Return the response for a notification."""
        return cls.model_validate(_notification_fields(notification))


class NotificationStatusResponse(NotificationResponse):
    """One notification with its counts."""

    #: deliveries per state
    by_state: dict[str, int]
    #: later steps that can still start
    waiting_steps: int
    #: whether every recipient has a final state
    finished: bool

    @classmethod
    def with_counts(cls, notification: Notification, counts: NotificationCounts) -> Self:
        """Return the response for a notification with its counts."""
        return cls.model_validate(_notification_fields(notification) | _count_fields(notification, counts))


class ProgressResponse(ResponseModel):
    """The progress of a notification, without its audience and content."""

    id: str
    status: str
    recipients: int
    deliveries: int
    skipped: int
    #: recipients for whom it was collected into a digest
    collected: int
    by_state: dict[str, int]
    waiting_steps: int
    created_at: datetime
    finished: bool

    @classmethod
    def from_notification(cls, notification: Notification, counts: NotificationCounts) -> Self:
        """Return the progress of a notification."""
        fields = {"id": notification.id, "status": str(notification.state), "createdAt": notification.created_at}
        return cls.model_validate(fields | _count_fields(notification, counts))


class ReceiptResponse(ResponseModel):
    """One event that a provider reported of a message, without the address."""

    id: str
    provider: str
    status: str | None
    cause: str
    code: str | None
    message_id: str | None
    occurred_at: datetime
    received_at: datetime
    #: how often the provider sent the same event again
    repeats: int


class DeliveryResponse(ResponseModel):
    """One delivery with its attempts, without the endpoint, which is a capability URL."""

    id: str
    user_id: str
    channel: str
    #: the user's name for the device, and the provider's host
    target: str | None = Field(validation_alias="target_label")
    state: str
    rule: str
    why: str | None
    #: the inputs of the decision, if a rule holds it, or it was skipped just before sending
    detail: dict[str, JsonValue]
    #: the rule that holds it until `dueAt`, such as quiet_hours
    held_by: str | None
    due_at: datetime
    created_at: datetime
    updated_at: datetime
    attempts: list[AttemptTrace]
    #: the status that the provider's events say: `sent`, `delivered`, `bounced` …; null without any
    receipt_status: str | None
    #: what the provider reported since, the oldest first
    receipts: list[ReceiptResponse]
    #: opens and clicks of an e-mail by people and by machines; null without any, and unless its category is tracked
    engagement: Engagement | None


class SkipResponse(ResponseModel):
    """One recipient who received nothing on a channel, and the reason."""

    id: str
    user_id: str
    channel: str
    reason: str
    detail: dict[str, JsonValue]
    created_at: datetime


def is_finished(notification: Notification, counts: NotificationCounts) -> bool:
    """Whether the fan-out has ended, all deliveries and later steps are final, and the digests are closed."""
    return notification.state in {"fanned_out", "cancelled"} and not counts.open


def _count_fields(notification: Notification, counts: NotificationCounts) -> dict[str, object]:
    return {
        "recipients": counts.recipients,
        "deliveries": counts.deliveries,
        "skipped": counts.skipped,
        "collected": counts.collected,
        "byState": {str(state): number for state, number in counts.by_state.items() if number},
        "waitingSteps": counts.waiting_steps,
        "finished": is_finished(notification, counts),
    }


def _notification_fields(notification: Notification) -> dict[str, object]:
    return {
        "id": notification.id,
        "status": str(notification.state),
        "templateCode": notification.template_code,
        "templateVersion": notification.template_version,
        "category": notification.category,
        "priority": str(notification.priority),
        "audience": to_json(notification.audience),
        "variables": dict(notification.variables),
        "channels": list(notification.channels),
        "actionUrl": notification.action_url,
        "actionText": notification.action_text,
        "sendAt": notification.send_at,
        "expiresAt": notification.expires_at,
        "createdAt": notification.created_at,
        "source": notification.source,
        "subject": notification.subject,
        "subjectVersion": notification.subject_version,
        "supersededBy": notification.superseded_by,
        "recipients": notification.recipients,
        "deliveries": notification.deliveries,
        "skipped": notification.skipped,
        "collected": notification.collected,
    }
