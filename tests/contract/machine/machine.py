"""The state machine: what may happen to a world, in any order, and what it is held to."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import partial
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select
from tests.contract.machine.books import Asked, read_books
from tests.contract.machine.faulty import Fault
from tests.contract.machine.post import Answer
from tests.contract.machine.process import Process, Round
from tests.contract.machine.world import DEVICES, Backend, SharedLanes, World

from tidings.errors import BackendError, Conflict
from tidings.flow.intake.outside import Accepted, Part
from tidings.flow.replay import Pace, discard_page, replay_page
from tidings.model import audience, ids
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.ports.operations import DeadLetterFilter
from tidings.stores.connection import of
from tidings.stores.schema import deliveries
from tidings.testing.clock import START, FrozenClock

_T = TypeVar("_T")
#: seconds in which each step must be over: nothing may wait for something that never comes
STEP_WITHIN = 60.0
EVERYBODY = tuple(DEVICES)
#: some audiences; None = everyone, page by page
AUDIENCES: Sequence[tuple[str, ...] | None] = (None, ("ana",), ("ben",), ("ana", "ben"), ("cem", "gus", "fay", "eli"))
#: what is asked for under each idempotency key
KEYS = {"k1": ("ana",), "k2": ("ben", "dora")}
SECONDS = (0.5, 2, 5, 30, 61, 600, 3700)


class Meanwhile(Enum):
    """What happens while a message is on its way."""

    NOTHING = auto()
    #: the process dies before the message arrives, or before it hears the answer
    DIES_BEFORE = auto()
    DIES_AFTER = auto()
    #: one of the notifications that it holds is cancelled elsewhere
    CANCELLED = auto()
    #: it stands still for longer than its lease, and another worker does the work, or dies of it
    STALLS = auto()
    STALLS_AND_ANOTHER_DIES = auto()
    FLUSHED = auto()


places = st.integers(0, 7)
faults = st.sampled_from((Fault.NONE, Fault.NONE, Fault.NONE, Fault.NOT_APPLIED, Fault.REPLY_LOST))
answers = st.lists(st.sampled_from(Answer), max_size=4)
meanwhiles = st.sampled_from((Meanwhile.NOTHING, Meanwhile.NOTHING, *Meanwhile))


class Machine(RuleBasedStateMachine):
    """Moves a world, and remembers what it was promised."""

    backend: ClassVar[Backend]
    start: ClassVar[datetime] = START
    user_limit: ClassVar[int] = 20

    def __init__(self) -> None:
        super().__init__()
        self.last_id, ids._last = ids._last, 0
        self.asked: dict[str, Asked] = {}
        #: key → what was answered
        self.answered: dict[str, str] = {}
        self.known: list[str] = []
        self.replays: Counter[str] = Counter()
        self.world = self.run(self._opened())

    async def _opened(self) -> World:
        world = World(self.backend, FrozenClock(self.start), self.user_limit)
        await world.open()
        return world

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        async def within() -> _T:
            async with asyncio.timeout(STEP_WITHIN):
                return await call

        return self.backend.runner.run(within())

    def process(self, place: int) -> Process:
        """Return a worker, or the API."""
        return [*self.world.workers, self.world.api][place % (len(self.world.workers) + 1)]

    def worker(self, place: int) -> Process:
        return self.world.workers[place % len(self.world.workers)]

    @initialize()
    def begin_with_news_to_everyone(self) -> None:
        self.accept(None, "NEWS", None, None, None, 1, 2, Fault.NONE, away=False)

    # accept ---------------------------------------------------------------------------------------------------------

    @rule(
        to=st.sampled_from(AUDIENCES),
        template=st.sampled_from(("NEWS", "NEWS", "DUTY")),
        priority=st.sampled_from((None, None, Priority.URGENT, Priority.LOW)),
        delay=st.sampled_from((None, None, 30, 600, 7200)),
        lives=st.sampled_from((None, None, 1, 20, 90)),
        times=st.sampled_from((1, 1, 1, 8)),
        by=places,
        fault=faults,
        away=st.sampled_from((False, False, True)),
    )
    def accept(
        self,
        to: tuple[str, ...] | None,
        template: str,
        priority: Priority | None,
        delay: float | None,
        lives: float | None,
        times: int,
        by: int,
        fault: Fault,
        *,
        away: bool,
    ) -> None:
        now = self.world.clock.now()
        send_at = None if delay is None else now + timedelta(seconds=delay)
        expires_at = None if lives is None else (send_at or now) + timedelta(seconds=lives)
        source = f"asked:{len(self.asked)}"
        request = NotifyRequest(
            template,
            audience.everyone() if to is None else audience.users(*to),
            {"title": "Hello"},
            priority=priority,
            send_at=send_at,
            expires_at=expires_at,
            source=source,
        )
        counts = template == "NEWS" and priority is not Priority.URGENT
        applied = 0 if fault is Fault.NOT_APPLIED else times
        self.asked[source] = Asked(EVERYBODY if to is None else to, counts, applied)
        lanes = self.world.lanes
        if isinstance(lanes, SharedLanes):
            lanes.away = away
        self.run(self._accept([request] * times, self.process(by), fault))
        if isinstance(lanes, SharedLanes):
            lanes.away = False

    def _news(self) -> NotifyRequest:
        source = f"asked:{len(self.asked)}"
        self.asked[source] = Asked(EVERYBODY, counts=True)
        return NotifyRequest("NEWS", audience.everyone(), {"title": "Hello"}, source=source)

    async def _accept(self, requests: list[NotifyRequest], by: Process, fault: Fault) -> None:
        by.store.fault = fault
        try:
            async with by.store.begin() as tx:
                made = await by.pipeline.accept_many(tx, requests)
        except BackendError:
            return
        for one in made:
            assert not isinstance(one, Exception), one
            self.known.append(one.id)

    @rule(key=st.sampled_from(sorted(KEYS)), by=places, fault=faults)
    def accept_once(self, key: str, by: int, fault: Fault) -> None:
        """Ask under a key, which may have been used before; who hears nothing asks again."""
        self.asked[f"key:{key}"] = Asked(KEYS[key], counts=True)
        accepted = self.run(self._accept_once(key, self.process(by), fault))
        assert self.answered.setdefault(key, accepted) == accepted, "accepted twice"
        self.known.append(accepted)

    async def _accept_once(self, key: str, by: Process, fault: Fault) -> str:
        def request(user_ids: Sequence[str]) -> NotifyRequest:
            return NotifyRequest("NEWS", audience.users(*user_ids), {"title": "Hello"}, source=f"key:{key}")

        by.store.fault = fault
        while True:
            try:
                [made] = await by.parts.accept([Part("shop", key, KEYS[key], request)])
            except BackendError:
                continue
            assert isinstance(made, Accepted)
            assert made.id is not None
            return made.id

    # cancel ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.known)
    @rule(which=st.integers(0, 50), by=places, fault=faults)
    def cancel(self, which: int, by: int, fault: Fault) -> None:
        self.run(self._cancel(self.known[which % len(self.known)], self.process(by), fault))

    async def _cancel(self, notification_id: str, by: Process, fault: Fault = Fault.NONE) -> None:
        by.store.fault = fault
        try:
            await self.world.cancel(notification_id, by)
        except (BackendError, Conflict):
            # not confirmed
            by.store.fault = Fault.NONE

    # work, and what happens meanwhile -------------------------------------------------------------------------------

    @rule(
        place=places,
        most=st.sampled_from((1, 2, 4, None)),
        timers=st.booleans(),
        answers=answers,
        meanwhile=meanwhiles,
        at=st.integers(0, 3),
        fault=faults,
        writes=st.booleans(),
    )
    def work(
        self,
        place: int,
        most: int | None,
        answers: list[Answer],
        meanwhile: Meanwhile,
        at: int,
        fault: Fault,
        *,
        timers: bool,
        writes: bool,
    ) -> None:
        """Have a worker do some tasks, None = all there are, and something new if there is nothing to do."""
        worker = self.worker(place)
        self.run(self._prepare(worker, answers, meanwhile, at))
        self.run(self._work(worker, most, fault, timers=timers))
        if writes and not worker.dead:
            self.run(worker.write())
        self.run(self._afterwards(worker))

    async def _work(self, worker: Process, most: int | None, fault: Fault, *, timers: bool) -> None:
        if timers:
            await worker.quietly(partial(worker.go_round, Round.RELAY))
            await worker.quietly(partial(worker.go_round, Round.WAKE))
        if not await worker.waiting():
            await self._accept([self._news()], self.world.api, Fault.NONE)
        worker.store.fault = fault
        if most is not None:
            await worker.work(most)
        while most is None and not worker.dead and await worker.waiting():
            await worker.work(5)

    async def _prepare(self, worker: Process, answers: list[Answer], meanwhile: Meanwhile, at: int) -> None:
        wire = worker.wire
        wire.answers, wire.until = list(answers), at
        wire.dies = {Meanwhile.DIES_BEFORE: False, Meanwhile.DIES_AFTER: True}.get(meanwhile)
        wire.meanwhile = self._happening(worker, meanwhile, at)

    def _happening(self, worker: Process, meanwhile: Meanwhile, at: int) -> Callable[[], Awaitable[None]] | None:
        async def cancelled() -> None:
            held = sorted(worker.sender.held)
            await self._cancel(held[at % len(held)], self.world.api)

        async def stalled() -> None:
            self.world.clock.advance(61)
            for other in self.world.workers:
                if other is not worker:
                    await self._take_over(other, dies=meanwhile is Meanwhile.STALLS_AND_ANOTHER_DIES)

        async def flushed() -> None:
            self.world.flush()

        match meanwhile:
            case Meanwhile.CANCELLED:
                return cancelled
            case Meanwhile.STALLS | Meanwhile.STALLS_AND_ANOTHER_DIES:
                return stalled
            case Meanwhile.FLUSHED:
                return flushed
        return None

    async def _take_over(self, other: Process, *, dies: bool) -> None:
        await other.quietly(partial(other.go_round, Round.SWEEP))
        await other.quietly(partial(other.go_round, Round.WAKE))
        await self._prepare(other, [], Meanwhile.DIES_AFTER if dies else Meanwhile.NOTHING, 0)
        while not other.dead and await other.waiting():
            await other.work(5)

    async def _afterwards(self, worker: Process) -> None:
        worker.store.fault = Fault.NONE
        for one in self.world.workers:
            if not one.dead:
                one.wire.calm()
        await self.world.bury()

    @rule(place=places, fault=faults)
    def write(self, place: int, fault: Fault) -> None:
        worker = self.worker(place)
        worker.store.fault = fault
        self.run(worker.write())
        worker.store.fault = Fault.NONE

    @rule(place=places, what=st.sampled_from(Round), fault=faults)
    def go_round(self, place: int, what: Round, fault: Fault) -> None:
        worker = self.worker(place)
        worker.store.fault = fault
        self.run(worker.quietly(partial(worker.go_round, what)))
        worker.store.fault = Fault.NONE

    # kill, flush, time ----------------------------------------------------------------------------------------------

    @rule(place=places, in_order=st.booleans())
    def replace_a_worker(self, place: int, in_order: bool) -> None:
        """Kill a worker, or stop it in order, and start another."""
        if in_order:
            self.run(self.worker(place).stop())
        self.run(self._replaced(place % len(self.world.workers)))

    async def _replaced(self, place: int) -> None:
        await self.world.begin_anew(place)

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule(seconds=st.sampled_from(SECONDS))
    def pass_time(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from((0.3, 1.0)))
    def turn_back(self, seconds: float) -> None:
        self.world.turn_back(timedelta(seconds=seconds))

    # what operators and users do ------------------------------------------------------------------------------------

    @rule(discards=st.booleans(), fault=faults)
    def deal_with_dead_letters(self, discards: bool, fault: Fault) -> None:
        self.run(self._discard(fault) if discards else self._replay(fault))

    async def _replay(self, fault: Fault) -> None:
        store, now = self.world.api.store, self.world.clock.now()
        dead = await self._in_state("refused")
        store.fault = fault
        try:
            async with store.begin() as tx:
                await replay_page(store, tx, DeadLetterFilter(), pace=Pace(2.0), most=5, now=now)
        except BackendError:
            pass
        self.replays.update(dead - await self._in_state("refused"))

    async def _discard(self, fault: Fault) -> None:
        store = self.world.api.store
        store.fault = fault
        try:
            async with store.begin() as tx:
                await discard_page(store, tx, DeadLetterFilter(), most=1, now=self.world.clock.now())
        except BackendError:
            pass

    @rule(user=st.sampled_from(EVERYBODY))
    def subscribe_again(self, user: str) -> None:
        self.run(self.world.register(user))

    async def _in_state(self, state: str) -> set[str]:
        async with self.world.store.read() as tx:
            found = await of(tx).scalars(select(deliveries.c.id).where(deliveries.c.state == state))
            return set(found.all())

    # what holds -----------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_sent_after_a_confirmed_cancellation(self) -> None:
        assert self.world.post.too_late() == []

    @invariant()
    def only_what_is_being_sent_holds_a_lease(self) -> None:
        # outcomes are recorded by the lease alone
        assert self.run(self._wrong_leases()) == []

    async def _wrong_leases(self) -> Sequence[str]:
        async with self.world.store.read() as tx:
            wrong = (deliveries.c.state == "sending") != deliveries.c.lease_token.is_not(None)
            return (await of(tx).scalars(select(deliveries.c.state).where(wrong))).all()

    def teardown(self) -> None:
        try:
            self.run(self._comes_to_rest())
        finally:
            self.run(self.world.close())
            ids._last = self.last_id

    async def _comes_to_rest(self) -> None:
        await self.world.come_to_rest()
        self.nothing_is_sent_after_a_confirmed_cancellation()
        async with self.world.store.read() as tx:
            books = await read_books(tx)
        books.check(self.asked, self.world.post, self.replays)
        books.check_limits(self.asked, self.user_limit, self.world.set_back)
