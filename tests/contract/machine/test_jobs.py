"""Jobs added, taken, settled, held by the silent, lost with the server: the shared queue does what a tiny model says.

On a real Valkey, whose own clock says when what was taken (`rationed.py`).
"""

import asyncio
import itertools
import os
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from redis.asyncio import Redis
from tests.contract.machine.job_model import Ledger, Settling
from tests.contract.machine.rationed import Watch
from tests.contract.machine.taker import LIMIT, MOST_STALLS, NAME, WINDOW, Fault, Taker

from tidings.errors import BackendError
from tidings.queues import bullmq_commands
from tidings.queues.bullmq_commands import Job
from tidings.queues.bullmq_jobs import NewJob
from tidings.redis_link import connection_options
from tidings.testing.valkey import ValkeyServer

_T = TypeVar("_T")
#: `make chaos` takes ten times as many runs
RUNS = 40 if os.environ.get("TIDINGS_CHAOS") == "long" else 4
PLACES = 2
#: seconds in which each step must be over: nothing may wait for something that never comes
STEP_WITHIN = 30.0
#: seconds that a taker waits at most, so that it is cut short in the limiter's pause too
BRIEFLY = 0.06


faults = st.sampled_from((Fault.NONE, Fault.NONE, Fault.NONE, Fault.NOT_SENT, Fault.REPLY_LOST))
places = st.integers(0, PLACES - 1)
picks = st.integers(0, 50)


class JobMachine(RuleBasedStateMachine):
    """Does everything to the model and to the takers of one queue, and compares.

    No rule has a precondition: what was taken in time depends on the machine, and a run must be repeatable.
    """

    valkey: ClassVar[ValkeyServer]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(MOST_STALLS)
        self.numbers = itertools.count()
        #: those who fell silent: they take nothing any more, and may still say something
        self.silent: list[Taker] = []
        self.run(self._begin())

    async def _begin(self) -> None:
        self.valkey.flush()
        self.takers = [Taker(self.valkey.url) for _ in range(PLACES)]
        self.admin = Redis.from_url(self.valkey.url, **connection_options(self.valkey.url))
        self.watch = Watch(self.admin)
        await self.watch.begin()

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        async def within() -> _T:
            async with asyncio.timeout(STEP_WITHIN):
                return await call

        return self.runner.run(within())

    @initialize(count=st.integers(4, 9))
    def begin_with_some_jobs(self, count: int) -> None:
        self.add(0, count, 0.0, Fault.NONE)

    @rule(place=places, count=st.integers(1, 6), delay=st.sampled_from((0.0, 0.0, 0.02, 0.2)), fault=faults)
    def add(self, place: int, count: int, delay: float, fault: Fault) -> None:
        self.run(self._add(place, [f"job-{next(self.numbers)}" for _ in range(count)], delay, fault))

    @rule(place=places, which=picks)
    def add_again(self, place: int, which: int) -> None:
        """Add one that the server has, finished or not: nothing comes of it."""
        if known := sorted(self.ledger.jobs):
            self.run(self._add(place, [known[which % len(known)]], 0.0, Fault.NONE))

    async def _add(self, place: int, job_ids: Sequence[str], delay: float, fault: Fault) -> None:
        now = datetime.now(UTC)
        jobs = [NewJob(one, "a", {"is": one}, now + timedelta(seconds=delay)) for one in job_ids]
        client = self.takers[place].client
        client.fault = fault if jobs else Fault.NONE
        try:
            await self.takers[place].source.add(jobs, now)
        except BackendError:
            assert fault is not Fault.NONE
        client.fault = Fault.NONE
        if fault is not Fault.NOT_SENT:
            for job_id in job_ids:
                self.ledger.add(job_id)

    @rule(place=places, limit=st.integers(1, 6), steps=st.one_of(st.none(), st.integers(0, 30)), fault=faults)
    def take(self, place: int, limit: int, steps: int | None, fault: Fault) -> None:
        """Take some jobs; cut short after some steps of the event loop, or a moment later."""
        self.run(self._take(self.takers[place], limit, steps, fault))

    async def _take(self, taker: Taker, limit: int, steps: int | None, fault: Fault) -> None:
        taker.client.fault = fault
        taking = asyncio.ensure_future(taker.source.take(limit))
        for _ in range(steps or 0):
            await asyncio.sleep(0)
        if steps is None:
            await asyncio.wait([taking], timeout=BRIEFLY)
        taking.cancel()
        await asyncio.wait([taking])
        taker.client.fault = Fault.NONE
        if not taking.cancelled():
            self._note(taker, taking.result(), limit)

    def _note(self, taker: Taker, jobs: Sequence[Job], limit: int) -> None:
        assert len(jobs) <= limit
        for job in jobs:
            self.ledger.taken(job)
        taker.jobs += jobs

    @rule(
        place=places,
        limit=st.integers(1, 6),
        hows=st.lists(st.sampled_from(Settling), min_size=1, max_size=4),
        fault=faults,
    )
    def work(self, place: int, limit: int, hows: list[Settling], fault: Fault) -> None:
        """Take some jobs, wait for the limiter if need be, and settle them in several ways."""
        self.run(self._work(self.takers[place], limit, hows, fault))

    async def _work(self, taker: Taker, limit: int, hows: list[Settling], fault: Fault) -> None:
        await self._take(taker, limit, None, Fault.NONE)
        for how in hows[: len(taker.jobs)]:
            await self._settle(taker, taker.jobs.pop(0), how, fault)

    @rule(which=picks, pick=picks, how=st.sampled_from(Settling), fault=faults)
    def settle(self, which: int, pick: int, how: Settling, fault: Fault) -> None:
        """Say what came of a job. Who was silent too long is not heard any more."""
        if some := [one for one in [*self.takers, *self.silent] if one.jobs]:
            taker = some[which % len(some)]
            self.run(self._settle(taker, taker.jobs.pop(pick % len(taker.jobs)), how, fault))

    async def _settle(self, taker: Taker, job: Job, how: Settling, fault: Fault) -> None:
        taker.client.fault = fault
        match how:
            case Settling.COMPLETE:
                await taker.source.complete([job])
            case Settling.FAIL:
                await taker.source.fail(job, "of a test")
            case Settling.RETRY:
                await taker.source.retry(job, after=0.01, why="of a test")
            case Settling.GIVE_BACK:
                await taker.source.give_back([job])
        taker.client.fault = Fault.NONE
        self.ledger.settled(job, how, heard=fault is not Fault.NOT_SENT)

    @rule(place=places)
    def fall_silent(self, place: int) -> None:
        """Let a taker stand still in the middle of what it does, and another one come."""
        self.run(self._replace(place))

    @rule(place=places, limit=st.integers(1, 6), steps=st.integers(0, 30))
    def end_in_order(self, place: int, limit: int, steps: int) -> None:
        """Let a taker end while it looks for jobs: it keeps only what it was handed."""
        self.run(self._end_in_order(self.takers[place], limit, steps))
        self.run(self._replace(place))

    async def _end_in_order(self, taker: Taker, limit: int, steps: int) -> None:
        taking = asyncio.ensure_future(taker.source.take(limit))
        for _ in range(steps):
            await asyncio.sleep(0)
        await taker.source.close()
        self._note(taker, await taking, limit)
        if not taker.source._ghosts:
            assert set(await self._held_by(taker)) <= self.ledger.held

    async def _replace(self, place: int) -> None:
        old, self.takers[place] = self.takers[place], Taker(self.valkey.url)
        await old.source.release()
        self.silent.append(old)

    async def _held_by(self, taker: Taker) -> list[tuple[str, str]]:
        """Return id and token of what the server says a taker has in hands."""
        return await taker.source._commands.owned(f"{taker.source._id}:")

    @rule()
    def locks_run_out(self) -> None:
        """Let as much time pass as nobody's lock lasts that does not renew it."""
        self.run(self._locks_run_out())

    async def _locks_run_out(self) -> None:
        key = f"bull:{NAME}:".__add__
        renewed = {held for one in self.takers for held in one.source._held}
        for job_id in map(str, await self.admin.lrange(key("active"), 0, -1)):
            token = await self.admin.get(key(f"{job_id}:lock"))
            if (job_id, token) not in renewed:
                await self.admin.delete(key(f"{job_id}:lock"))
                self.ledger.stalled(job_id)
        for _ in range(2):
            # first it is noted who is active, the next time whose lock has gone
            await self.admin.delete(key("stalled-check"))
            await self.takers[0].source._commands.rescue_stalled(MOST_STALLS, 30.0)

    @rule(seldom=st.sampled_from((False, False, False, True)))
    def flush(self, seldom: bool) -> None:
        """Lose everything, as a server does that starts anew."""
        if not seldom:
            return
        self.valkey.flush()
        self.valkey.command("SCRIPT", "FLUSH")
        self.ledger.flushed()

    @invariant()
    def counts_sum_to_the_ledger(self) -> None:
        self.ledger.check(self.run(self.takers[0].source.stats()))

    def teardown(self) -> None:
        try:
            self.run(self._comes_to_rest())
        finally:
            self.run(self._end())

    async def _comes_to_rest(self) -> None:
        """Let nothing more go wrong, and the takers that there are end all jobs."""
        for taker in itertools.cycle(self.takers):
            while taker.jobs:
                job = taker.jobs.pop()
                await self._settle(taker, job, Settling.FAIL if job.broken else Settling.COMPLETE, Fault.NONE)
            await self._locks_run_out()
            if not self.ledger.unfinished:
                break
            await self._take(taker, LIMIT, None, Fault.NONE)
        self.ledger.check(await self.takers[0].source.stats())
        (await self.watch.end()).check(LIMIT, WINDOW, self.ledger.broken)

    async def _end(self) -> None:
        for taker in [*self.takers, *self.silent]:
            await taker.end()
        await self.admin.aclose()


@pytest.fixture(autouse=True)
def _a_slow_machine_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the faults that a run chooses look as if the server were away."""
    monkeypatch.setattr(bullmq_commands, "PROMPT", STEP_WITHIN)
    monkeypatch.setattr(bullmq_commands, "PATIENT", STEP_WITHIN)


def test_jobs_end_once_and_no_more_are_taken_than_the_limiter_lets(
    valkey: ValkeyServer, runner: asyncio.Runner
) -> None:
    options = settings(max_examples=5, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    # five at a time, as of more in one go most are slight changes of each other
    for _ in range(RUNS):
        run_machine(type("Jobs", (JobMachine,), {"valkey": valkey, "runner": runner}), settings=options)
