"""Decide what an event has to tell, and to whom. Pure: events and changes in, a request to notify out (MISSION M2)."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from tidings.flow.detect.describe import written_changes
from tidings.model import audience
from tidings.model.change import Change
from tidings.model.request import NotifyRequest
from tidings.packs.events.events import Event, EventStatus, watched
from tidings.packs.events.templates import TEMPLATE_OF

#: an event without an end is news until this long after its start; also the least time news has to arrive
A_DAY = timedelta(days=1)
#: no push service keeps a message longer (RFC 8030 leaves it to them; all of them cap here)
LONGEST = timedelta(days=28)
#: characters of a changed value that travel with the notification: more than any sentence quotes
LONGEST_VALUE = 400
#: fields of an event that templates may name
_TOLD = ("startDate", "endDate", "venue", "address", "city", "hostId")


def news_of(old: Event, new: Event, change: Change | None, now: datetime) -> NotifyRequest | None:
    """Return what an update has to tell, or None.

    The first publication announces the event. A significant change of an active event goes to its ticket holders,
    and so does its return after a cancellation, because they were told that it is off. Drafts never notify, nor
    does taking an event back to draft.
    """
    if old.first_published_at is None and new.first_published_at is not None:
        return announcement(new, now)
    was_public = old.status is EventStatus.ACTIVE and new.status is not EventStatus.DRAFT
    is_on_again = old.status is EventStatus.CANCELLED and new.status is EventStatus.ACTIVE
    if change is None or not change.significant or not (was_public or is_on_again):
        return None
    return NotifyRequest(
        template_code=TEMPLATE_OF[change.type],
        audience=audience.ticket_holders(new.id),
        variables={
            **variables(new),
            "changes": written_changes(change.fields, longest=LONGEST_VALUE),
            "changeType": change.type,
        },
        priority=change.priority,
        expires_at=limit(new, now),
        source=f"event:{new.id}:{change.type}",
    )


def announcement(event: Event, now: datetime) -> NotifyRequest:
    """Return the news of a new event: to its city (to everybody if it has none) and to who favourited its host."""
    people = audience.city(event.city) if event.city else audience.everyone()
    if event.host_id and event.city:  # everybody includes them already
        people = people | audience.favourited_host(event.host_id)
    return NotifyRequest(
        template_code="NEW_EVENT",
        audience=people,
        variables=variables(event),
        expires_at=limit(event, now),
        source=f"event:{event.id}:published",
    )


def message(event: Event, title: str, body: str, now: datetime) -> NotifyRequest:
    """Return the host's own words to the ticket holders."""
    return NotifyRequest(
        template_code="EVENT_MANUAL",
        audience=audience.ticket_holders(event.id),
        variables={**variables(event), "title": title, "body": body},
        expires_at=limit(event, now),
        source=f"event:{event.id}:manual",
    )


def variables(event: Event) -> Mapping[str, object]:
    """Return what every template may say about an event."""
    shown = watched(event)
    return {"eventId": event.id, "eventTitle": event.title, **{name: shown[name] for name in _TOLD}}


def limit(event: Event, now: datetime) -> datetime:
    """Return when the news is of no use any more: with the event over; at least a day from now, at most 28."""
    over = event.end_date or event.start_date + A_DAY
    return min(max(over, now + A_DAY), now + LONGEST)
