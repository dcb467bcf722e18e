"""What answers about notifications look like."""

from datetime import datetime
from typing import Self

from pydantic import Field, JsonValue

from tidings.edge.answers import Shown
from tidings.model.audience import to_json
from tidings.model.notification import Counts, Notification


class Accepted(Shown):
    """A notification that was taken on."""

    id: str
    status: str


class NotificationShown(Shown):
    """One notification and how far it has come."""

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
    recipients: int
    deliveries: int
    skipped: int

    @classmethod
    def of(cls, notification: Notification) -> Self:
        """Return what is shown of a notification."""
        return cls.model_validate(_fields(notification))


class NotificationStatus(NotificationShown):
    """One notification with its counts."""

    #: deliveries per state
    by_state: dict[str, int]
    #: whether every recipient has a final state
    finished: bool

    @classmethod
    def counted(cls, notification: Notification, counts: Counts) -> Self:
        """Return a notification with its counts."""
        return cls.model_validate(_fields(notification) | _counted(notification, counts))


class Progress(Shown):
    """How far a notification has come, and nothing of whom it is for or what it says."""

    id: str
    status: str
    recipients: int
    deliveries: int
    skipped: int
    by_state: dict[str, int]
    created_at: datetime
    finished: bool

    @classmethod
    def of(cls, notification: Notification, counts: Counts) -> Self:
        """Return how far a notification has come."""
        who = {"id": notification.id, "status": str(notification.state), "createdAt": notification.created_at}
        return cls.model_validate(who | _counted(notification, counts))


class AttemptShown(Shown):
    """One try."""

    number: int
    outcome: str
    why: str
    status: int | None
    started_at: datetime
    finished_at: datetime


class DeliveryShown(Shown):
    """One delivery with its tries. The endpoint is not shown: it is a capability."""

    id: str
    user_id: str
    channel: str
    #: what the user calls the device, and the provider's host
    target: str | None = Field(validation_alias="target_label")
    state: str
    rule: str
    why: str | None
    due_at: datetime
    created_at: datetime
    updated_at: datetime
    attempts: list[AttemptShown]


class SkipShown(Shown):
    """One recipient who got nothing on a channel, and why."""

    id: str
    user_id: str
    channel: str
    reason: str
    detail: dict[str, JsonValue]
    created_at: datetime


def is_finished(notification: Notification, counts: Counts) -> bool:
    """Say whether nothing of a notification is left to do."""
    still = counts.by_state.get("pending", 0) + counts.by_state.get("sending", 0)
    return notification.state in {"fanned_out", "cancelled"} and not still


def _counted(notification: Notification, counts: Counts) -> dict[str, object]:
    return {
        "recipients": counts.recipients,
        "deliveries": counts.deliveries,
        "skipped": counts.skipped,
        "byState": {str(state): number for state, number in counts.by_state.items() if number},
        "finished": is_finished(notification, counts),
    }


def _fields(notification: Notification) -> dict[str, object]:
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
        "recipients": notification.recipients,
        "deliveries": notification.deliveries,
        "skipped": notification.skipped,
    }
