"""Events as the API shows them: camelCase, instants in UTC."""

from typing import Annotated

from pydantic import Field

from tidings.edge.answers import Shown
from tidings.flow.detect.describe import written_changes
from tidings.flow.detect.instants import written
from tidings.model.change import Change
from tidings.model.notification import Notification
from tidings.packs.events.events import Event, EventStatus, watched
from tidings.packs.events.service import Updated

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class EventOut(Shown):
    """An event."""

    id: str
    title: str
    description: str
    start_date: Moment
    end_date: Moment | None
    venue: str | None
    address: str | None
    city: str | None
    host_id: str | None
    status: EventStatus
    first_published_at: Moment | None
    version: int
    created_at: Moment
    updated_at: Moment


class FieldChangeOut(Shown):
    """One field, before and after."""

    field: str
    kind: str
    old: str | None
    new: str | None


class ChangeOut(Shown):
    """All that an update changed, led by its most important type."""

    type: str
    types: list[str]
    fields: list[FieldChangeOut]
    priority: str
    significant: bool


class NotificationOut(Shown):
    """The notification that was accepted."""

    id: str
    status: str


class UpdatedOut(EventOut):
    """An event after an update, what changed, and the news it made."""

    change: ChangeOut | None
    notification: NotificationOut | None
    #: why nobody could be told, when somebody should have been
    problem: str | None


class EventPage(Shown):
    """One page of events, newest first."""

    items: list[EventOut]
    #: give it as `cursor` for the next page; null on the last
    next_cursor: str | None


class MembershipOut(Shown):
    """A user's ticket or favourite."""

    event_id: str
    user_id: str
    status: str


def event_json(event: Event) -> dict[str, object]:
    """Return an event as `EventOut`."""
    published = event.first_published_at
    return {
        "id": event.id,
        **watched(event),
        "firstPublishedAt": None if published is None else written(published),
        "version": event.version,
        "createdAt": written(event.created_at),
        "updatedAt": written(event.updated_at),
    }


def change_json(change: Change | None) -> dict[str, object] | None:
    """Return a change as `ChangeOut`."""
    if change is None:
        return None
    return {
        "type": change.type,
        "types": list(change.types),
        "fields": written_changes(change.fields),
        "priority": change.priority.value,
        "significant": change.significant,
    }


def notification_json(notification: Notification | None) -> dict[str, object] | None:
    """Return a notification as `NotificationOut`."""
    return None if notification is None else {"id": notification.id, "status": notification.state.value}


def updated_json(updated: Updated) -> dict[str, object]:
    """Return what came of an update as `UpdatedOut`."""
    return {
        **event_json(updated.event),
        "change": change_json(updated.change),
        "notification": notification_json(updated.notification),
        "problem": updated.problem,
    }
