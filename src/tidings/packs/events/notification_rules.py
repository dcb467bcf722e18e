"""Rules that decide which changes of an event cause a notification, and for which audience. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from tidings.changes.describer import serialize_changes
from tidings.changes.rules import ChangeRule, ChangeRuleSet, WatchedField, becomes
from tidings.model import audience
from tidings.model.change import Change, ValueKind
from tidings.model.priority import Priority
from tidings.model.request import MAX_SCHEDULE_AHEAD, NotifyRequest
from tidings.model.subject import SubjectRequest
from tidings.packs.events.calendar import build_calendar_entry
from tidings.packs.events.event import Event, EventStatus, change_snapshot
from tidings.packs.events.history import (
    ANNOUNCEMENT,
    EventHistory,
    build_reminder_subject,
    build_state,
    event_subject,
    message_subject,
)
from tidings.packs.events.templates import TEMPLATE_BY_CHANGE_TYPE

#: after its start, an event without an end counts as over
ASSUMED_DURATION = timedelta(days=1)
#: lifetime of a message of the host after the event
AFTERWORD_LIFETIME = timedelta(days=1)
#: push services store messages for at most this long (RFC 8030 leaves the limit to them)
MAX_TIME_TO_EXPIRY = timedelta(days=28)
#: characters of a changed value stored with the notification; no template shows more
MAX_VALUE_LENGTH = 400
#: A notification for users who were, or were not, sent an earlier one is planned this much later. Sends in flight have
#: ended by then, so that it is known who was.
IN_FLIGHT_GRACE = timedelta(seconds=3)
#: fields of an event that templates can use
_TEMPLATE_FIELDS = ("startDate", "endDate", "venue", "address", "city", "hostId")

#: the types of change, most important first
CHANGE_RULES = ChangeRuleSet(
    (
        ChangeRule(
            "cancellation",
            (WatchedField("status", ValueKind.STATUS),),
            Priority.URGENT,
            condition=becomes("status", "CANCELLED"),
        ),
        ChangeRule(
            "time_change",
            (WatchedField("startDate", ValueKind.INSTANT), WatchedField("endDate", ValueKind.INSTANT)),
            Priority.HIGH,
        ),
        ChangeRule("venue_change", (WatchedField("venue"), WatchedField("address")), Priority.HIGH),
        ChangeRule("status_change", (WatchedField("status", ValueKind.STATUS),), Priority.NORMAL),
        ChangeRule(
            "other",
            (WatchedField("title"), WatchedField("description"), WatchedField("city"), WatchedField("hostId")),
            Priority.LOW,
            is_significant=False,
        ),
    )
)


def notification_for_update(
    old: Event, new: Event, change: Change | None, now: datetime, *, told: Mapping[str, object] | None = None
) -> NotifyRequest | None:
    """Return the notification for an update, or None.

    The first publication announces the event. A significant change of an active event is sent to its ticket holders.
    So is the reactivation of a cancelled event, because they were notified of the cancellation. Drafts, changing an
    event back to a draft, and changes of an event that is over cause no notification.

    change: the difference to what users were told. told: that state, None = the old version.
    """
    if is_over(new, now):
        return None
    if old.first_published_at is None and new.first_published_at is not None:
        return publication_notice(new, now)
    told = build_state(old) if told is None else told
    was_public = told["status"] == EventStatus.ACTIVE and new.status is not EventStatus.DRAFT
    is_reactivated = told["status"] == EventStatus.CANCELLED and new.status is EventStatus.ACTIVE
    if change is None or not change.is_significant or not (was_public or is_reactivated):
        return None
    return NotifyRequest(
        template_code=TEMPLATE_BY_CHANGE_TYPE[change.type],
        audience=audience.ticket_holders(new.id),
        variables={
            **template_variables(new),
            "calendar": build_calendar_entry(new),
            "changes": serialize_changes(change.fields, max_length=MAX_VALUE_LENGTH),
            "changeType": change.type,
        },
        priority=change.priority,
        expires_at=expiry_for(new, now),
        source=f"event:{new.id}:{change.type}",
        subject=SubjectRequest(
            event_subject(new.id),
            new.version,
            build_state(new),
            told,
            # a cancellation also supersedes the messages of the host
            includes_below=new.status is EventStatus.CANCELLED,
        ),
    )


def build_secondary_requests(
    old: Event,
    new: Event,
    request: NotifyRequest | None,
    history: EventHistory,
    now: datetime,
    *,
    told: Mapping[str, object],
) -> list[NotifyRequest]:
    """Return the notifications that an update causes besides `request`, the one for ticket holders.

    told: what users were told of the event before. If the event was announced, its cancellation, and the revocation of
    that, is also sent to all other users who were sent something about it. An announcement that the update superseded,
    or that was withdrawn when the event became a draft again, is repeated for the users whom it did not reach.
    """
    requests = []
    unsent_states = [state for one in history.unsent for state in (one.state, one.previous_state) if state is not None]
    statuses = {told["status"], str(new.status), *(state.get("status") for state in unsent_states)}
    if request is not None and history.has_announcement and EventStatus.CANCELLED in statuses:
        requests.append(build_notice_to_informed(request, new, now))
    is_announced_now = request is not None and request.template_code == ANNOUNCEMENT
    is_superseded = request is not None or old.status is EventStatus.DRAFT
    if new.status is EventStatus.ACTIVE and history.is_unannounced and is_superseded and not is_announced_now:
        requests.append(build_repeated_announcement(new, now))
    return requests


def build_notice_to_informed(request: NotifyRequest, event: Event, now: datetime) -> NotifyRequest:
    """Return the same notification for all other users who were sent something about the event."""
    return replace(
        request,
        audience=(_informed_before(event) | audience.being_informed(event_subject(event.id)))
        - audience.ticket_holders(event.id),
        send_at=now + IN_FLIGHT_GRACE,
    )


def build_repeated_announcement(event: Event, now: datetime) -> NotifyRequest:
    """Return the announcement, with the current details, for the users whom the first one did not reach."""
    first = publication_notice(event, now)
    return replace(
        first,
        audience=first.audience - _informed_before(event) - audience.ticket_holders(event.id),
        send_at=now + IN_FLIGHT_GRACE,
    )


def _informed_before(event: Event) -> audience.Audience:
    # without the notification itself, whose membership is checked again before each send
    return audience.informed_before(event_subject(event.id), event.version)


def publication_notice(event: Event, now: datetime) -> NotifyRequest:
    """Return the announcement of an event to its city (or all users) and to the users who favourited its host."""
    recipients = audience.city(event.city) if event.city else audience.everyone()
    if event.host_id and event.city:  # `everyone` includes them already
        recipients = recipients | audience.favourited_host(event.host_id)
    return NotifyRequest(
        template_code=ANNOUNCEMENT,
        audience=recipients,
        variables={**template_variables(event), "calendar": build_calendar_entry(event)},
        expires_at=expiry_for(event, now),
        source=f"event:{event.id}:published",
        subject=SubjectRequest(event_subject(event.id), event.version, build_state(event)),
    )


def build_reminder(event: Event, lead: timedelta, now: datetime, venue_timezone: str = "") -> NotifyRequest | None:
    """Return the reminder of an event, to be sent `lead` before its start.

    None if the event does not take place, its time is past or more than a year ahead, or `lead` is zero. The ticket
    holders of that time receive it: the audience is read when it is due. The start is shown in the zone of the event,
    or else in `venue_timezone`, an IANA name; empty = the recipient's.
    """
    send_at = event.start_date - lead
    if not lead or event.status is not EventStatus.ACTIVE or not now < send_at <= now + MAX_SCHEDULE_AHEAD:
        return None
    return NotifyRequest(
        template_code="EVENT_REMINDER",
        audience=audience.ticket_holders(event.id),
        variables={**template_variables(event), "venueTimezone": event.timezone or venue_timezone},
        send_at=send_at,
        # past the start a reminder is of no use
        expires_at=event.start_date,
        source=f"event:{event.id}:reminder",
        subject=SubjectRequest(build_reminder_subject(event.id)),
    )


def host_message(event: Event, title: str, body: str, now: datetime, *, message_id: str) -> NotifyRequest:
    """Return a message of the host to the ticket holders. After the event it lives for a day."""
    return NotifyRequest(
        template_code="EVENT_MANUAL",
        audience=audience.ticket_holders(event.id),
        variables={**template_variables(event), "title": title, "body": body},
        expires_at=now + AFTERWORD_LIFETIME if is_over(event, now) else expiry_for(event, now),
        source=f"event:{event.id}:manual",
        subject=SubjectRequest(message_subject(event.id, message_id)),
    )


def template_variables(event: Event) -> Mapping[str, object]:
    """Return the variables that every event template can use."""
    fields = change_snapshot(event)
    return {"eventId": event.id, "eventTitle": event.title, **{name: fields[name] for name in _TEMPLATE_FIELDS}}


def expiry_for(event: Event, now: datetime) -> datetime:
    """Return the expiry of a notification: the end of the event, at most 28 days from now."""
    return min(_end_of(event), now + MAX_TIME_TO_EXPIRY)


def is_over(event: Event, now: datetime) -> bool:
    """Return whether an event has ended. Without an end it is over a day after its start."""
    return _end_of(event) <= now


def _end_of(event: Event) -> datetime:
    return event.end_date or event.start_date + ASSUMED_DURATION
