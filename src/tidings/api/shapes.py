"""What answers look like: camelCase, described in `/openapi.json`."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.alias_generators import to_camel

from tidings.model.audience import to_json
from tidings.model.notification import Counts, Notification
from tidings.model.trace import DeliveryTrace, SkipTrace


class Shown(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, serialize_by_alias=True, ser_json_inf_nan="null"
    )

    def json_object(self) -> dict[str, object]:
        """Return the JSON form."""
        return self.model_dump(mode="json", by_alias=True)


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
        return cls.model_validate(
            _fields(notification)
            | {
                "recipients": counts.recipients,
                "deliveries": counts.deliveries,
                "skipped": counts.skipped,
                "byState": {str(state): number for state, number in counts.by_state.items() if number},
                "finished": is_finished(notification, counts),
            }
        )


class AttemptShown(Shown):
    """One try."""

    number: int
    outcome: str
    why: str
    status: int | None
    started_at: datetime
    finished_at: datetime


class DeliveryShown(Shown):
    """One delivery with its tries."""

    id: str
    user_id: str
    channel: str
    #: what the user calls the device, and the provider's host
    target: str | None
    state: str
    rule: str
    why: str | None
    due_at: datetime
    created_at: datetime
    updated_at: datetime
    attempts: list[AttemptShown]

    @classmethod
    def of(cls, trace: DeliveryTrace) -> Self:
        """Return what is shown of a delivery. The endpoint is not: it is a capability."""
        return cls(
            id=trace.id,
            user_id=trace.user_id,
            channel=trace.channel,
            target=trace.target_label,
            state=trace.state,
            rule=trace.rule,
            why=trace.why,
            due_at=trace.due_at,
            created_at=trace.created_at,
            updated_at=trace.updated_at,
            attempts=[
                AttemptShown(
                    number=one.number,
                    outcome=one.outcome,
                    why=one.why,
                    status=one.status,
                    started_at=one.started_at,
                    finished_at=one.finished_at,
                )
                for one in trace.attempts
            ],
        )


class SkipShown(Shown):
    """One recipient who got nothing on a channel, and why."""

    id: str
    user_id: str
    channel: str
    reason: str
    detail: dict[str, JsonValue]
    created_at: datetime

    @classmethod
    def of(cls, trace: SkipTrace) -> Self:
        """Return what is shown of a skip."""
        return cls.model_validate(
            {
                "id": trace.id,
                "userId": trace.user_id,
                "channel": trace.channel,
                "reason": str(trace.reason),
                "detail": dict(trace.detail),
                "createdAt": trace.created_at,
            }
        )


def is_finished(notification: Notification, counts: Counts) -> bool:
    """Say whether nothing of a notification is left to do."""
    still = counts.by_state.get("pending", 0) + counts.by_state.get("sending", 0)
    return notification.state in {"fanned_out", "cancelled"} and not still


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
