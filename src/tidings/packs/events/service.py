"""Events, their tickets and favourites: every change of them, and the news it makes (MISSION M2).

Every method works inside the caller's transaction, so an event and its news are committed together or not at all.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from tidings.errors import Conflict, Invalid, NotFound, TidingsError
from tidings.flow.detect.detect import detect
from tidings.model.change import Change
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.packs.events import news, store
from tidings.packs.events.events import Event, EventFields, EventStatus, check_move, check_times, watched
from tidings.packs.events.rules import RULES
from tidings.ports.clock import Clock
from tidings.ports.host import Notifier
from tidings.ports.store import Store, Transaction

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Updated:
    """What came of an update."""

    event: Event
    #: None when nothing that people see is different
    change: Change | None = None
    #: None when nobody is to be told, or telling them failed
    notification: Notification | None = None
    #: why telling people failed; the update stands all the same
    problem: str | None = None


class EventService:
    """Changes events inside transactions of `backing` and tells `notifier` what is news."""

    def __init__(self, backing: Store, notifier: Notifier, clock: Clock) -> None:
        self._backing = backing
        self._notifier = notifier
        self._clock = clock

    async def create(self, tx: Transaction, fields: EventFields) -> Event:
        """Store a new event, a draft unless `status` says otherwise.

        Nobody is told, also of an event that is created ACTIVE (an import): publishing a draft announces it.
        Raises Invalid for an end that is not after the start, or without `title` or `start_date`.
        """
        for name, wire in (("title", "title"), ("start_date", "startDate")):
            if name not in fields:
                raise Invalid.field(wire, "is required")
        now = self._clock.now()
        status = fields.get("status", EventStatus.DRAFT)
        event = Event(
            id=new_id(now),
            title=fields["title"],
            description=fields.get("description", ""),
            start_date=fields["start_date"],
            end_date=fields.get("end_date"),
            venue=fields.get("venue"),
            address=fields.get("address"),
            city=fields.get("city"),
            host_id=fields.get("host_id"),
            status=status,
            first_published_at=now if status is EventStatus.ACTIVE else None,
            version=1,
            created_at=now,
            updated_at=now,
        )
        check_times(event)
        await store.add(tx, event)
        return event

    async def get(self, tx: Transaction, event_id: str, *, for_update: bool = False) -> Event:
        """Return an event. Raises NotFound."""
        # PostgreSQL takes no NUL in text: an id with one cannot exist
        event = None if "\0" in event_id else await store.get(tx, event_id, for_update=for_update)
        if event is None:
            raise NotFound("there is no event with this id", code="event_not_found")
        return event

    async def page(
        self, tx: Transaction, *, status: EventStatus | None, city: str | None, before: str | None, limit: int
    ) -> Sequence[Event]:
        """Return up to `limit` events, newest first, older than the id `before`."""
        return await store.page(tx, status=status, city=city, before=before, limit=limit)

    async def update(self, tx: Transaction, event_id: str, fields: EventFields) -> Updated:
        """Change an event and tell whom it concerns.

        Raises NotFound, Invalid for an end that is not after the start, Conflict for a status it cannot take or when
        somebody else changed it at the same time. A failure in telling is no error: see `Updated.problem`.
        """
        old = await self.get(tx, event_id, for_update=True)
        new = dataclasses.replace(old, **fields)
        check_move(old.status, new.status)
        check_times(new)
        if new == old:
            return Updated(old)
        now = self._clock.now()
        published = now if new.status is EventStatus.ACTIVE else None
        new = dataclasses.replace(
            new, version=old.version + 1, updated_at=now, first_published_at=old.first_published_at or published
        )
        if not await store.replace(tx, new, expected_version=old.version):
            raise Conflict("the event was changed at the same time; read it again and repeat", code="event_changed")
        if new.host_id != old.host_id:
            await store.move_favourites(tx, new)
        change = detect(watched(old), watched(new), RULES)
        request = news.news_of(old, new, change, now)
        if request is None:
            return Updated(new, change)
        notification, problem = await self._tell(tx, new, request)
        return Updated(new, change, notification, problem)

    async def publish(self, tx: Transaction, event_id: str) -> Updated:
        """Make a draft public. The first time announces it; an event that is public already stays as it is.

        Raises NotFound; Conflict for one that is cancelled or over (`update` with status ACTIVE brings those back).
        """
        event = await self.get(tx, event_id, for_update=True)
        if event.status in (EventStatus.CANCELLED, EventStatus.COMPLETED):
            raise Conflict(
                f"the event is {event.status}; to bring it back, set its status to ACTIVE", code="status_not_allowed"
            )
        return await self.update(tx, event_id, {"status": EventStatus.ACTIVE})

    async def cancel(self, tx: Transaction, event_id: str) -> Updated:
        """Cancel an event. Ticket holders of a public one are told urgently.

        Raises NotFound; Conflict if it is cancelled or over already, so that nobody is told twice.
        """
        event = await self.get(tx, event_id, for_update=True)
        if event.status is EventStatus.CANCELLED:
            raise Conflict("the event is cancelled already", code="already_cancelled")
        return await self.update(tx, event_id, {"status": EventStatus.CANCELLED})

    async def notify(self, tx: Transaction, event_id: str, title: str, body: str) -> Notification:
        """Tell the ticket holders something in the host's own words. Raises NotFound; Conflict for a draft."""
        event = await self.get(tx, event_id)
        if event.status is EventStatus.DRAFT:
            raise Conflict("the event is a draft, and drafts never notify; publish it first", code="event_is_draft")
        return await self._notifier.accept(tx, news.message(event, title, body, self._clock.now()))

    async def give_ticket(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Give a user an active ticket; giving it again changes nothing. Raises NotFound, Invalid for no such user."""
        event = await self.get(tx, event_id)
        await self._check_user(tx, user_id)
        await store.give_ticket(tx, event.id, user_id, self._clock.now())

    async def return_ticket(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Take back a user's ticket; it stops counting at once. Raises NotFound if there is no active one."""
        event = await self.get(tx, event_id)
        if not await store.return_ticket(tx, event.id, user_id, self._clock.now()):
            raise NotFound("this user has no active ticket of this event", code="ticket_not_found")

    async def add_favourite(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Note that a user likes an event. Raises NotFound, Invalid for no such user."""
        # the row is held so that a change of host does not pass between reading it and noting it
        event = await self.get(tx, event_id, for_update=True)
        await self._check_user(tx, user_id)
        await store.add_favourite(tx, event, user_id, self._clock.now())

    async def remove_favourite(self, tx: Transaction, event_id: str, user_id: str) -> None:
        """Forget that a user likes an event. Raises NotFound if nothing was noted."""
        event = await self.get(tx, event_id)
        if not await store.remove_favourite(tx, event.id, user_id):
            raise NotFound("this user has not favourited this event", code="favourite_not_found")

    async def _check_user(self, tx: Transaction, user_id: str) -> None:
        if await self._backing.users.unknown(tx, [user_id]):
            raise Invalid.field("userId", "is no known user; create it with PUT /api/users/{id} first")

    async def _tell(
        self, tx: Transaction, event: Event, request: NotifyRequest
    ) -> tuple[Notification | None, str | None]:
        """Accept the news in a savepoint: whatever goes wrong there is undone alone, and the update stands."""
        try:
            async with self._backing.savepoint(tx):
                return await self._notifier.accept(tx, request), None
        except Exception as error:  # noqa: BLE001  # by contract no failure in telling may break an update (M2)
            # neither the message nor the trace of a foreign error is logged: both may quote what users wrote
            failed = {"event_id": event.id, "template": request.template_code, "error": type(error).__name__}
            log.error("telling of an event failed", **failed)
            reason = error.message if isinstance(error, TidingsError) else f"internal error ({type(error).__name__})"
            return None, f"the notification {request.template_code} was not accepted: {reason}"
