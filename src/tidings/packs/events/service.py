"""Service for events, tickets and favourites: applies changes and accepts the notifications about them.

Every method runs in the caller's transaction, so an event and its notification are committed together or not at all.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from tidings.changes.detector import detect
from tidings.errors import BackendError, Conflict, NotFound, TidingsError, ValidationFailed
from tidings.model.change import Change
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.packs.events import notification_rules, repository
from tidings.packs.events.event import Event, EventFields, EventStatus, change_snapshot, check_times, check_transition
from tidings.packs.events.history import (
    EventHistory,
    build_reminder_subject,
    build_state,
    event_subject,
    restore_unsent_changes,
)
from tidings.ports.clock import Clock
from tidings.ports.pack_context import NotificationAcceptor
from tidings.ports.store import Store, Transaction

log = structlog.get_logger()

#: notifications about an event that are searched for unsent ones, the newest ones
MAX_HISTORY = 200


@dataclass(frozen=True, slots=True)
class EventUpdate:
    """The result of an update."""

    event: Event
    #: None when nothing visible to users changed
    change: Change | None = None
    #: None when no notification is due, or it was not accepted
    notification: Notification | None = None
    #: why the notification was not accepted; the update is stored all the same
    problem: str | None = None


class EventService:
    """Changes events in the caller's transaction and has `notifier` accept the notifications about them."""

    def __init__(
        self,
        store: Store,
        notifier: NotificationAcceptor,
        clock: Clock,
        *,
        reminder_before: timedelta = timedelta(),
        venue_timezone: str = "",
    ) -> None:
        """reminder_before: time before the start at which ticket holders are reminded; zero = never.

        venue_timezone: zone of the start in reminders; empty = the recipient's.
        """
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self._reminder_before = reminder_before
        self._venue_timezone = venue_timezone

    async def create(self, tx: Transaction, fields: EventFields) -> Event:
        """Store a new event, a draft unless `status` is given.

        No notification is sent, even if the event is created ACTIVE (an import): publishing a draft announces it.
        Raises ValidationFailed if the end is not after the start, or `title` or `start_date` is missing.
        """
        for name, api_name in (("title", "title"), ("start_date", "startDate")):
            if name not in fields:
                raise ValidationFailed.for_field(api_name, "is required")
        now = self._clock.now()
        event = Event(id=new_id(now), created_at=now, updated_at=now, **fields)
        if event.status is EventStatus.ACTIVE:
            event = dataclasses.replace(event, first_published_at=now)
        check_times(event)
        await repository.add(tx, event)
        await self._update_reminder(tx, None, event, now)
        return event

    async def get(self, tx: Transaction, event_id: str, *, for_update: bool = False) -> Event:
        """Return an event. Raises NotFound."""
        # PostgreSQL text cannot contain NUL, so an id with NUL does not exist
        event = None if "\0" in event_id else await repository.get(tx, event_id, for_update=for_update)
        if event is None:
            raise NotFound("there is no event with this id", code="event_not_found")
        return event

    async def page(
        self, tx: Transaction, *, status: EventStatus | None, city: str | None, before: str | None, limit: int
    ) -> Sequence[Event]:
        """Return up to `limit` events, newest first, older than the id `before`."""
        return await repository.page(tx, status=status, city=city, before=before, limit=limit)

    async def update(self, tx: Transaction, event_id: str, fields: EventFields) -> EventUpdate:
        """Change an event and notify the users concerned.

        Raises NotFound, ValidationFailed if the end is not after the start, Conflict if the status transition is not
        allowed or the event was changed concurrently. If the notification is not accepted, nothing is raised: see
        `EventUpdate.problem`.
        """
        old = await self.get(tx, event_id, for_update=True)
        new = dataclasses.replace(old, **fields)
        check_transition(old.status, new.status)
        check_times(new)
        if new == old:
            return EventUpdate(old)
        now = self._clock.now()
        published_at = now if new.status is EventStatus.ACTIVE else None
        new = dataclasses.replace(
            new, version=old.version + 1, updated_at=now, first_published_at=old.first_published_at or published_at
        )
        if not await repository.replace(tx, new, expected_version=old.version):
            raise Conflict("the event was changed concurrently; read it again and retry", code="event_changed")
        if new.host_id != old.host_id:
            await repository.move_favourites(tx, new)
        before, after = change_snapshot(old), change_snapshot(new)
        change = detect(before, after, notification_rules.CHANGE_RULES)
        history = await self._load_history(tx, new)
        if old.status is EventStatus.ACTIVE and new.status is EventStatus.DRAFT:
            await self._notifier.withdraw(tx, event_subject(new.id))
        is_republished = old.status is EventStatus.DRAFT and old.first_published_at is not None
        told = (history.last_state if is_republished else None) or build_state(old)
        news = change
        if is_republished or (change is not None and change.is_significant):
            # what users were told may differ from the old version: drafts change silently, and notices are superseded
            told_before = restore_unsent_changes({**before, **told}, after, history.unsent)
            news = detect(told_before, after, notification_rules.CHANGE_RULES)
        versioned = dataclasses.replace(new, version=history.get_next_version(new.version))
        request = notification_rules.notification_for_update(old, versioned, news, now, told=told)
        secondary = notification_rules.build_secondary_requests(old, versioned, request, history, now, told=told)
        requests = [*([request] if request else []), *secondary]
        await self._update_reminder(tx, old, new, now)
        if not requests:
            return EventUpdate(new, change)
        accepted = [await self._accept_notification(tx, new, each) for each in requests]
        notification = accepted[0][0]
        problem = next((problem for _, problem in accepted if problem), None)
        return EventUpdate(new, change, notification, problem)

    async def publish(self, tx: Transaction, event_id: str) -> EventUpdate:
        """Publish a draft. The first publication announces it. A public event stays unchanged.

        Raises NotFound; Conflict if the event is cancelled or over (`update` with status ACTIVE reactivates it).
        """
        event = await self.get(tx, event_id, for_update=True)
        if event.status in (EventStatus.CANCELLED, EventStatus.COMPLETED):
            raise Conflict(
                f"the event is {event.status}; to reactivate it, set its status to ACTIVE", code="status_not_allowed"
            )
        return await self.update(tx, event_id, {"status": EventStatus.ACTIVE})

    async def cancel(self, tx: Transaction, event_id: str) -> EventUpdate:
        """Cancel an event. Ticket holders of a public event are notified with urgent priority.

        Raises NotFound; Conflict if it is already cancelled or over, so that no user is notified twice.
        """
        event = await self.get(tx, event_id, for_update=True)
        if event.status is EventStatus.CANCELLED:
            raise Conflict("the event is already cancelled", code="already_cancelled")
        return await self.update(tx, event_id, {"status": EventStatus.CANCELLED})

    async def notify(self, tx: Transaction, event_id: str, title: str, body: str) -> Notification:
        """Send a message of the host to the ticket holders. Raises NotFound; Conflict for a draft."""
        # locked, so that a cancellation that commits first is seen
        event = await self.get(tx, event_id, for_update=True)
        if event.status is EventStatus.DRAFT:
            raise Conflict(
                "the event is a draft, for which no notifications are sent; publish it first", code="event_is_draft"
            )
        now = self._clock.now()
        return await self._notifier.accept(
            tx, notification_rules.host_message(event, title, body, now, message_id=new_id(now))
        )

    async def give_ticket(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Give a user an active ticket. Repeating it changes nothing.

        Raises NotFound for an unknown event, ValidationFailed for an unknown user.
        """
        event = await self.get(tx, event_id)
        await self._check_user(tx, user_id)
        await repository.give_ticket(tx, event.id, user_id, self._clock.now())

    async def return_ticket(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Return a user's ticket, which removes the user from the audience. Raises NotFound if no ticket is active."""
        event = await self.get(tx, event_id)
        if not await repository.return_ticket(tx, event.id, user_id, self._clock.now()):
            raise NotFound("this user has no active ticket of this event", code="ticket_not_found")

    async def add_favourite(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Add an event to a user's favourites.

        Raises NotFound for an unknown event, ValidationFailed for an unknown user.
        """
        # the row is locked so that the host cannot change before the favourite is stored
        event = await self.get(tx, event_id, for_update=True)
        await self._check_user(tx, user_id)
        await repository.add_favourite(tx, event, user_id, self._clock.now())

    async def remove_favourite(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Remove an event from a user's favourites. Raises NotFound if it is not one."""
        event = await self.get(tx, event_id)
        if not await repository.remove_favourite(tx, event.id, user_id):
            raise NotFound("this user has not favourited this event", code="favourite_not_found")

    async def _update_reminder(self, tx: Transaction, old: Event | None, new: Event, now: datetime) -> None:
        """Schedule the reminder of an event that is new or has changed, or withdraw it.

        The reminder with the new time or text supersedes the earlier one, which is then not sent.
        """
        before = None if old is None else self._build_reminder(old, now)
        after = self._build_reminder(new, now)
        if after is not None and after != before:
            await self._accept_notification(tx, new, after)
        elif before is not None and after is None:
            await self._notifier.withdraw(tx, build_reminder_subject(new.id))

    def _build_reminder(self, event: Event, now: datetime) -> NotifyRequest | None:
        return notification_rules.build_reminder(event, self._reminder_before, now, self._venue_timezone)

    async def _load_history(self, tx: Transaction, event: Event) -> EventHistory:
        subjects = self._store.subjects
        # no caller of the API may take the next version at the same time
        await subjects.lock(tx, [event_subject(event.id)])
        found = await subjects.list_history(tx, event_subject(event.id), limit=MAX_HISTORY)
        current = [one for one in found if one.superseded_by is None and not one.is_cancelled]
        being_sent = {one.notification_id for one in current if await subjects.has_unsent(tx, one.notification_id)}
        return EventHistory.build(found, being_sent)

    async def _check_user(self, tx: Transaction, user_id: str) -> None:
        if await self._store.users.missing_ids(tx, [user_id], lock=True):
            raise ValidationFailed.for_field("userId", "is an unknown user; create it with PUT /api/users/{id} first")

    async def _accept_notification(
        self, tx: Transaction, event: Event, request: NotifyRequest
    ) -> tuple[Notification | None, str | None]:
        """Accept the notification in a savepoint. A failure rolls back the savepoint only, not the update."""
        try:
            async with self._store.savepoint(tx):
                return await self._notifier.accept(tx, request), None
        except BackendError:
            # the database is busy or away: the whole update fails, and is repeated
            raise
        except Exception as error:  # noqa: BLE001  # a failed notification must not fail the update (decision 4)
            # message and traceback are not logged: both may contain texts of users
            log.error(
                "event_notification_failed",
                event_id=event.id,
                template=request.template_code,
                error=type(error).__name__,
            )
            reason = error.message if isinstance(error, TidingsError) else f"internal error ({type(error).__name__})"
            return None, f"the notification {request.template_code} was not accepted: {reason}"
