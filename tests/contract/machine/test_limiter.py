"""The limiter of jobs per second: whatever is added, taken, settled and lost, no window has more than the limit.

What matters is when jobs are handed out, by the server's limiter, for two takers together as in two processes.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.model.ids import new_id
from tidings.ports.clock import SystemClock
from tidings.queues.bullmq import JobSource
from tidings.queues.bullmq_commands import Job
from tidings.queues.bullmq_jobs import NewJob
from tidings.redis_link import RedisLink
from tidings.testing.valkey import ValkeyServer

LIMIT = 5
#: seconds; the window of the limiter is one, and its edges are read with a clock that is not the server's
WINDOW = 0.9
#: seconds that a taker waits in a step
PATIENCE = 0.05
#: seconds in which everything that is left must have been handed out
AT_LAST = 20.0

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 8)),
        st.tuples(st.just("take"), st.integers(1, 8)),
        st.tuples(st.sampled_from(("complete", "retry", "give_back", "flush", "rest")), st.just(0)),
    ),
    min_size=4,
    max_size=14,
)


class Counter:
    """Two takers on one queue, and when each job was handed out."""

    def __init__(self, server: ValkeyServer, sources: Sequence[JobSource]) -> None:
        self._server = server
        self._sources = deque(sources)
        self._held: list[tuple[JobSource, Job]] = []
        #: since the last time that the server forgot everything, its limiter included
        self.handed_out: list[float] = []
        self.open: set[str] = set()

    async def do(self, what: str, number: int) -> None:
        self._sources.rotate()
        match what:
            case "add":
                await self._add(number)
            case "take":
                await self.take(number, PATIENCE)
            case "flush":
                self._server.flush()
                self.handed_out, self.open, self._held = [], set(), []
            case "rest":
                await asyncio.sleep(0.3)
            case _:
                await self.settle(what)

    async def _add(self, number: int) -> None:
        now = SystemClock().now()
        jobs = [NewJob(new_id(now), "work", {}, now) for _ in range(number)]
        await self._sources[0].add(jobs, now)
        self.open |= {job.id for job in jobs}

    async def take(self, number: int, patience: float) -> None:
        source = self._sources[0]
        try:
            async with asyncio.timeout(patience):
                jobs = await source.take(number)
        except TimeoutError:
            return
        self.handed_out += [time.monotonic()] * len(jobs)
        self._held += [(source, job) for job in jobs]

    async def settle(self, how: str) -> None:
        held, self._held = self._held, []
        for source, job in held:
            match how:
                case "complete":
                    await source.complete([job])
                    self.open.discard(job.id)
                case "retry":
                    await source.retry(job, after=0.01, why="again")
                case "give_back":
                    await source.give_back([job])

    async def until_all_are_done(self) -> None:
        async with asyncio.timeout(AT_LAST):
            while self.open:
                await self.settle("complete")
                await self.take(LIMIT, 0.5)
                self._sources.rotate()

    def check(self) -> None:
        """Assert that no window has more than the limit."""
        for first in self.handed_out:
            within = sum(first <= one < first + WINDOW for one in self.handed_out)
            assert within <= LIMIT, f"{within} jobs in {WINDOW} s"


@asynccontextmanager
async def two_takers(server: ValkeyServer) -> AsyncIterator[Counter]:
    server.flush()
    link = RedisLink(server.url)
    sources = [JobSource(link, "{test-limited}", limit_per_second=LIMIT) for _ in range(2)]
    try:
        yield Counter(server, sources)
    finally:
        for source in sources:
            await source.close()
            await source.release()
        await link.close()


@pytest.mark.slow
def test_no_window_has_more_jobs_than_the_limit_allows(valkey: ValkeyServer) -> None:
    async def run(steps: Sequence[tuple[str, int]]) -> None:
        async with two_takers(valkey) as counter:
            await counter.do("add", 2 * LIMIT)
            for what, number in steps:
                await counter.do(what, number)
                counter.check()
            await counter.until_all_are_done()
            counter.check()

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps)
    def holds(steps: Sequence[tuple[str, int]]) -> None:
        asyncio.run(run(steps))

    holds()
