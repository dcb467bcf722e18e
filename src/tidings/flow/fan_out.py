"""Fan out: a page of one audience, or many small audiences together, become deliveries and skips in one transaction.

What goes to a few named users at once is planned in the transaction that accepts it (`look_up`, `plan_accepted`). For
everything else the states and cursors move in the transaction that plans it, by compare-and-set: who is overtaken, or
cancelled, adds nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog

from tidings.errors import BackendError
from tidings.flow.dispatch.tasks import deliver_tasks, next_page_task
from tidings.flow.intake.accept import named_only
from tidings.flow.intake.catalog import Catalog
from tidings.flow.plan.limit import WINDOW, Limits, held_back, reached, scope_of
from tidings.flow.plan.plan import Plan, batches_of, plan
from tidings.flow.recent import Recent
from tidings.model.delivery import Recipient
from tidings.model.notification import Notification, NotificationState
from tidings.model.priority import Lane
from tidings.model.task import Task
from tidings.ports.clock import Clock
from tidings.ports.queue import Queue
from tidings.ports.store import Store, Transaction

log = structlog.get_logger(__name__)

#: most users that a notification may name to be planned together with others
SMALL = 100
#: most users told by notifications that are accepted together and planned at once: more would keep others waiting
AT_ONCE = 200
#: who was named, in order, and what is known of them; None = there is no such user
LookedUp = Sequence[tuple[str, Recipient | None]]
#: is told of tasks, and does not wait for anything
Announced = Callable[[Sequence[Task]], None]
_OPEN = (NotificationState.ACCEPTED, NotificationState.FANNING_OUT)


def _nobody(_tasks: Sequence[Task]) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One page of one notification, planned and not yet stored."""

    before: Notification
    made: Plan
    recipients: int
    #: the last user of the page
    cursor: str | None
    done: bool

    @property
    def after(self) -> Notification:
        """The notification once this is stored."""
        return self.before.moved(
            cursor=self.cursor,
            recipients=self.recipients,
            deliveries=len(self.made.planned),
            skipped=len(self.made.skipped),
            done=self.done,
        )


def tasks_of(drafts: Sequence[Draft], now: datetime) -> list[Task]:
    """Return the tasks that send what drafts came to."""
    batches = {one.batch_id: one.lane for draft in drafts for one in draft.made.planned}
    return [task for batch_id, lane in batches.items() for task in deliver_tasks([batch_id], lane, now)]


class FanOut:
    """Plans notifications, a step at a time. One per process."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        catalog: Catalog,
        clock: Clock,
        *,
        page: int,
        batch: int,
        limits: Limits,
        planned: Callable[[Notification], None],
        bulk: asyncio.Lock,
    ) -> None:
        """`page`: users per step; `batch`: deliveries that travel together; `planned`: is told what is sent next;
        `bulk`: is held for each page that is not urgent.
        """
        self._store = store
        self._queue = queue
        self._catalog = catalog
        self._clock = clock
        self._page = page
        self._batch = batch
        self._limits = limits
        self._planned = planned
        self._bulk = bulk
        #: where each fan-out stands, so that it need not be read again for each page
        self._standing = Recent()

    def expect(self, notifications: Sequence[Notification]) -> None:
        """Keep what was just accepted: its fan-out comes next."""
        for notification in notifications:
            self._standing.keep(notification)

    async def step(
        self, notification_ids: Sequence[str], announced: Announced = _nobody, *, urgent: bool = False
    ) -> list[Task]:
        """Plan the next page of each notification, small ones together. Returns the tasks for the pages after them.

        announced: is told what can be sent now, a moment before the queue is. urgent: waits for no other work.
        """
        turn = nullcontext() if urgent else self._bulk
        standing = await self._stand(notification_ids)
        small = [one for one in standing if self._few(one) is not None]
        pieces = [
            *(partial(self._drafted_together, some) for some in self._portions(small)),
            *(partial(self._drafted, one) for one in standing if self._few(one) is None),
        ]
        following: list[Task] = []
        for drafted in pieces:
            async with turn:
                stored, after_them = await self._store_drafts(await drafted())
            # outside: a queue that hangs holds up nobody who waits for the database
            await self._announce(stored, announced)
            following += after_them
        return following

    def to_plan_at_once(self, notifications: Sequence[Notification], now: datetime) -> list[Notification]:
        """Return those that are to be planned as they are accepted: due, to a few named users, not many together.

        Beside urgent ones none that counts for a limit: it may have to wait for a page that counts the same users.
        """
        found, users = [], 0
        hurried = any(one.priority is Lane.URGENT for one in notifications)
        for one in notifications:
            named = self._few(one) if one.send_at <= now else None
            if named is None or (hurried and self._is_counted(one)):
                continue
            users += len(named)
            if users > AT_ONCE:
                break
            found.append(one)
        return found

    async def look_up(self, tx: Transaction, notifications: Sequence[Notification]) -> Mapping[str, LookedUp]:
        """Return, for each notification to named users, its users with their choices and devices."""
        wanted = {one.id: named_only(one.audience) or [] for one in notifications}
        pairs = [(user_id, one.category) for one in notifications for user_id in wanted[one.id]]
        found = iter(await self._store.audiences.named(tx, pairs))
        return {one: [(user_id, next(found)) for user_id in ids] for one, ids in wanted.items()}

    async def plan_accepted(
        self, tx: Transaction, notifications: Sequence[Notification], known: Mapping[str, LookedUp], now: datetime
    ) -> list[Draft]:
        """Plan, within limits, what is being accepted; the caller adds it, and what it came to with `add`."""
        return await self._within_limits(tx, self._drafts(notifications, known, now), now)

    async def add(self, tx: Transaction, drafts: Sequence[Draft], now: datetime) -> None:
        """Store the deliveries and skips of drafts."""
        planned = [delivery for one in drafts for delivery in one.made.planned]
        skipped = [skip for one in drafts for skip in one.made.skipped]
        await self._store.deliveries.add(tx, planned, skipped, now)

    async def page_of(
        self, tx: Transaction, notification: Notification, after: str | None
    ) -> tuple[Sequence[Recipient], bool]:
        """Return the next page, and whether more follow: one user more is read, instead of an empty last page."""
        page = await self._store.audiences.page(
            tx, notification.audience, category=notification.category, after=after, limit=self._page + 1
        )
        return page[: self._page], len(page) > self._page

    def planned(
        self, notification: Notification, page: Sequence[Recipient], now: datetime, batches: Iterator[str] | None = None
    ) -> Plan:
        """Plan some recipients, before limits."""
        return plan(
            page,
            notification,
            self._catalog.category(notification.category),
            channels=self._catalog.channels,
            batches=batches or batches_of(self._batch, now),
            now=now,
        )

    async def _stand(self, notification_ids: Sequence[str]) -> list[Notification]:
        """Return where the notifications stand that are open, each once, in the order given."""
        found = {one: kept for one in notification_ids if (kept := self._standing.get(one))}
        if unread := [one for one in dict.fromkeys(notification_ids) if one not in found]:
            async with self._store.look() as tx:
                found.update({one.id: one for one in await self._store.notifications.get_many(tx, unread)})
        ordered = (found[one] for one in dict.fromkeys(notification_ids) if one in found)
        return [one for one in ordered if one.state in _OPEN]

    def _few(self, notification: Notification) -> Sequence[str] | None:
        """Return the users of a notification that names so few that it is planned together with others."""
        named = named_only(notification.audience) if notification.state is NotificationState.ACCEPTED else None
        return named if named is not None and len(named) <= self._most else None

    def _is_counted(self, notification: Notification) -> bool:
        return scope_of(notification, self._catalog.category(notification.category), self._limits) is not None

    @property
    def _most(self) -> int:
        return min(SMALL, self._page)

    def _portions(self, notifications: Sequence[Notification]) -> Iterator[list[Notification]]:
        """Split small notifications so that no portion has more than a page of users."""
        portion: list[Notification] = []
        users = 0
        for one in notifications:
            size = len(named_only(one.audience) or ())
            if portion and users + size > self._page:
                yield portion
                portion, users = [], 0
            portion.append(one)
            users += size
        if portion:
            yield portion

    async def _drafted(self, notification: Notification) -> list[Draft]:
        async with self._store.read() as tx:
            page, more = await self.page_of(tx, notification, notification.cursor)
        made = self.planned(notification, page, self._clock.now())
        return [Draft(notification, made, len(page), page[-1].user_id if page else notification.cursor, not more)]

    async def _drafted_together(self, notifications: Sequence[Notification]) -> list[Draft]:
        async with self._store.look() as tx:
            known = await self.look_up(tx, notifications)
        return self._drafts(notifications, known, self._clock.now())

    def _drafts(
        self, notifications: Sequence[Notification], known: Mapping[str, LookedUp], now: datetime
    ) -> list[Draft]:
        batches: defaultdict[Lane, Iterator[str]] = defaultdict(lambda: batches_of(self._batch, now))
        drafts = []
        for one in notifications:
            # who is not there any more was erased since it was accepted
            page = [user for _, user in known[one.id] if user is not None]
            made = self.planned(one, page, now, batches[one.priority])
            drafts.append(Draft(one, made, len(page), None, done=True))
        return drafts

    async def _store_drafts(self, drafts: Sequence[Draft]) -> tuple[list[Draft], list[Task]]:
        """Store pages. Returns what was stored, and the tasks for what comes after them."""
        now = self._clock.now()
        drafts = sorted(drafts, key=lambda draft: draft.before.id)  # so that two workers never wait for each other
        async with self._store.begin() as tx:
            moved = await self._store.notifications.advance_many(tx, [(one.before, one.after) for one in drafts])
            ours = [one for one in drafts if one.before.id in moved]
            stored = await self._within_limits(tx, ours, now)
            # the counts were written before it was known who is held back; nobody else can have moved it since
            fewer = [(first.after, one.after) for first, one in zip(ours, stored, strict=True) if one is not first]
            await self._store.notifications.advance_many(tx, fewer)
            await self.add(tx, stored, now)
        following = []
        for one in drafts:
            if one.before.id not in moved:
                # somebody else planned this page, or it was cancelled: look again, what they wrote holds
                following.append(next_page_task(one.before, now))
        for one in stored:
            self._planned(one.before)
            if not one.done:
                self._standing.keep(one.after)
                following.append(next_page_task(one.after, now))
        for one in drafts:
            if one.done or one.before.id not in moved:
                self._standing.drop(one.before.id)
        return stored, following

    async def _announce(self, stored: Sequence[Draft], announced: Announced) -> None:
        tasks = tasks_of(stored, self._clock.now())
        announced(tasks)
        try:
            await self._queue.publish(tasks)
        except BackendError as error:
            # they are committed, and `Recovery.find_lost` finds what nobody was told of
            log.warning("batches_not_published", batches=len(tasks), problem=error.message)

    async def _within_limits(self, tx: Transaction, drafts: Sequence[Draft], now: datetime) -> list[Draft]:
        """Count each notification for the users it reaches, and hold it back from those who got enough (MISSION M18).

        Who was overtaken is not among the drafts: its users are counted by whoever was first.
        """
        counted: defaultdict[tuple[str, int], list[Draft]] = defaultdict(list)
        for draft in drafts:
            category = self._catalog.category(draft.before.category)
            if draft.made.planned and (counts := scope_of(draft.before, category, self._limits)):
                counted[counts].append(draft)
        kept = {draft.before.id: draft for draft in drafts}
        for (scope, limit), some in sorted(counted.items(), key=lambda item: item[0]):
            wanted = {one.before.id: reached(one.made, one.before.id) for one in some}
            allowed = await self._allowed(tx, scope, limit, wanted, now)
            for one in some:
                made = held_back(
                    one.made, one.before.id, allowed[one.before.id], scope, limit, category=one.before.category
                )
                if made is not one.made:
                    kept[one.before.id] = replace(one, made=made)
        return list(kept.values())

    async def _allowed(
        self, tx: Transaction, scope: str, limit: int, wanted: Mapping[str, Collection[str]], now: datetime
    ) -> dict[str, set[str]]:
        """Return notification → users who stay within the limit; wanted: notification → users, counted in this order.

        A user whom several of the notifications reach is counted once in each round.
        """
        waiting: dict[str, list[str]] = {}
        for notification_id, user_ids in wanted.items():
            for user_id in user_ids:
                waiting.setdefault(user_id, []).append(notification_id)
        allowed: dict[str, set[str]] = {notification_id: set() for notification_id in wanted}
        while waiting:
            within = await self._store.limits.take(tx, scope, list(waiting), limit=limit, window=WINDOW, now=now)
            for user_id in within:
                allowed[waiting[user_id].pop(0)].add(user_id)
            # whose window is full gets none of the later ones either
            waiting = {user_id: waiting[user_id] for user_id in within if waiting[user_id]}
        return allowed
