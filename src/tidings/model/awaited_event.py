"""Domain events that notifications wait for before their later steps are planned. Pure.

An event ends the later steps of users who are planned. A notification that is planned later, and one that a digest
collects, would not know of it. So what they await is stored, and an event that comes is recorded with it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from tidings.model.notification import Notification
from tidings.model.waiting_step import build_event_key

#: type of an event → when it happened
OccurredEvents = Mapping[str, datetime]
NO_EVENTS: OccurredEvents = {}
#: user id → what happened for each
NO_OCCURRED: Mapping[str, OccurredEvents] = {}
#: what an event must be about if the users are not known yet: any user
ANY_USER = "users"


class AwaitedEvent(msgspec.Struct, frozen=True):
    """A domain event that a notification awaits, and when it happened."""

    notification_id: str
    #: type of the event
    event: str
    #: for whom it counts; None = for all
    user_id: str | None
    #: what it must be about: see `build_event_key`, or `ANY_USER`
    event_key: str
    #: None = it has not happened
    occurred_at: datetime | None = None


def list_awaited_events(notification: Notification, user_ids: Sequence[str] | None) -> list[AwaitedEvent]:
    """Return what a notification awaits that is not planned at once. user_ids: None = they are not known yet."""
    events = notification.plan.events
    if notification.subject is not None:
        key = build_event_key(notification.subject, "")
        return [AwaitedEvent(notification.id, event, None, key) for event in events]
    if user_ids is None:
        return [AwaitedEvent(notification.id, event, None, ANY_USER) for event in events]
    return [
        AwaitedEvent(notification.id, event, user_id, build_event_key(None, user_id))
        for event in events
        for user_id in user_ids
    ]


def build_awaited_of_item(notification: Notification, user_id: str, happened: OccurredEvents) -> list[AwaitedEvent]:
    """Return what a notification awaits while a digest collects it for a user. happened: what came before."""
    key = build_event_key(notification.subject, user_id)
    return [
        AwaitedEvent(notification.id, event, user_id, key, happened.get(event)) for event in notification.plan.events
    ]
