"""Response bodies of the events API: camelCase, instants in UTC."""

from typing import Annotated

from pydantic import Field

from tidings.changes.describer import serialize_changes
from tidings.localization.instants import format_utc_instant
from tidings.model.change import Change
from tidings.model.notification import Notification
from tidings.packs.events.event import Event, EventStatus, change_snapshot
from tidings.packs.events.service import EventUpdate
from tidings.schemas.response_models import ResponseModel

InstantText = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class EventResponse(ResponseModel):
    """An event."""

    id: str
    title: str
    description: str
    start_date: InstantText
    end_date: InstantText | None
    venue: str | None
    address: str | None
    city: str | None
    timezone: str | None
    host_id: str | None
    status: EventStatus
    first_published_at: InstantText | None
    version: int
    created_at: InstantText
    updated_at: InstantText


class FieldChangeResponse(ResponseModel):
    """One field, before and after."""

    field: str
    kind: str
    old: str | None
    new: str | None


class ChangeResponse(ResponseModel):
    """The changes of an update, named after the most important one."""

    type: str
    types: list[str]
    fields: list[FieldChangeResponse]
    priority: str
    significant: bool


class EventNotificationResponse(ResponseModel):
    """The accepted notification."""

    id: str
    status: str


class EventUpdateResponse(EventResponse):
    """An event after an update, with the change and the notification about it."""

    change: ChangeResponse | None
    notification: EventNotificationResponse | None
    #: why the notification was not accepted; null if it was, or if none was due
    problem: str | None


class EventPage(ResponseModel):
    """One page of events, newest first."""

    items: list[EventResponse]
    #: pass it as `cursor` for the next page; null on the last page
    next_cursor: str | None


class MembershipResponse(ResponseModel):
    """A user's ticket or favourite."""

    event_id: str
    user_id: str
    status: str


def serialize_event(event: Event) -> dict[str, object]:
    """Return an event as `EventResponse`."""
    published = event.first_published_at
    return {
        "id": event.id,
        **change_snapshot(event),
        "firstPublishedAt": None if published is None else format_utc_instant(published),
        "version": event.version,
        "createdAt": format_utc_instant(event.created_at),
        "updatedAt": format_utc_instant(event.updated_at),
    }


def serialize_change(change: Change | None) -> dict[str, object] | None:
    """Return a change as `ChangeResponse`."""
    if change is None:
        return None
    return {
        "type": change.type,
        "types": list(change.types),
        "fields": serialize_changes(change.fields),
        "priority": change.priority.value,
        "significant": change.is_significant,
    }


def serialize_notification(notification: Notification | None) -> dict[str, object] | None:
    """Return a notification as `EventNotificationResponse`."""
    return None if notification is None else {"id": notification.id, "status": notification.state.value}


def serialize_update(update: EventUpdate) -> dict[str, object]:
    """Return the result of an update as `EventUpdateResponse`."""
    return {
        **serialize_event(update.event),
        "change": serialize_change(update.change),
        "notification": serialize_notification(update.notification),
        "problem": update.problem,
    }
