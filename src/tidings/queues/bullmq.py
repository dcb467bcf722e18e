"""A worker loop for BullMQ queues: takes jobs, keeps their locks, settles them, comes back by itself.

The official package has one of its own, young in Python: it leaves jobs active when it closes, forgets the limiter's
pause, rounds short waits up, and an error handler can stop it. Ours is written on the package's data layer.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import uuid4

import structlog

from tidings.errors import BackendError
from tidings.ports.queue import LaneStats
from tidings.queues.bullmq_commands import BullCommands, Call, Job, Look
from tidings.queues.bullmq_jobs import NewJob
from tidings.redis_link import RedisLink

log = structlog.get_logger(__name__)

#: seconds a job stays ours without a sign of life; we give one, and look for dead workers' jobs, three times as often
LOCK = 30.0
#: seconds a fetch blocks at most; after that it looks by itself, so that a lost wake-up costs no more than this
BLOCK = 5.0
#: seconds until the next try while the server is away
AWAY = 1.0


class JobSource:
    """Adds, takes and settles the jobs of one queue, for any number of takers in this process.

    What a settling call could not tell the server is told by time: the lock runs out, the job is handed out again.
    """

    def __init__(
        self,
        link: RedisLink,
        name: str,
        *,
        limit_per_second: int | None = None,
        most_stalls: int = 1000,
        lock: float = LOCK,
    ) -> None:
        """name: of the queue; put it in braces so that all its keys share a slot of a cluster.

        limit_per_second: jobs all processes together take in a second; None = no limit. most_stalls: after how many
        deaths of its worker a job is handed out as broken; lanes leave that to the database, which counts by delivery.
        lock: seconds until the jobs of a dead process may be handed out again.
        """
        self.name = name
        self._commands = BullCommands(link, name, limit_per_second=limit_per_second, lock=lock)
        self._most_stalls = most_stalls
        self._keep_every = lock / 3
        self._id = uuid4().hex
        self._takes = 0
        self._held: dict[tuple[str, str], Job] = {}
        #: fetched for a taker that was cancelled meanwhile
        self._spare: list[Job] = []
        #: whether a fetch may have made jobs ours without our learning of it
        self._ghosts = False
        self._turn = asyncio.Lock()
        self._stop = asyncio.Event()
        self._blocked: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def add(self, jobs: Sequence[NewJob], now: datetime) -> None:
        """Add jobs; one whose id is known already is not added again. Raises BackendError after half a second."""
        await self._commands.add(jobs, now)

    async def take(self, limit: int) -> Sequence[Job]:
        """Wait until there are jobs, then return up to `limit`, oldest first. Empty only when closed.

        A broken one (no JSON, stalled too often) is handed out too, with the reason in `broken`: it wants `fail`.
        While the server is away this waits. Cancelling it loses nothing.
        """
        if self._keeper is None and not self._stop.is_set():
            self._keeper = asyncio.create_task(self._keep())
        away = False
        async with self._turn:
            while not self._stop.is_set():
                if self._spare:
                    jobs, self._spare = self._spare[:limit], self._spare[limit:]
                    return jobs
                try:
                    look = await self._fetch(limit)
                    if not self._spare:
                        await self._wait(look)
                    away = False
                except BackendError as error:
                    if not away:
                        log.warning("queue_away", queue=self.name, problem=error.message)
                    away = True
                    await self._rest(AWAY)
        return []

    async def complete(self, jobs: Sequence[Job], *, answers: Sequence[object] = (), units: int | None = None) -> None:
        """Settle jobs that were done. answers: their return values, plain JSON; units: what they count for in the rate.

        Never raises for a server that is away.
        """
        values = answers or [None] * len(jobs)
        await self._settle(
            jobs,
            lambda: [self._commands.completed(job, value) for job, value in zip(jobs, values, strict=True)],
            counted=len(jobs) if units is None else units,
        )

    async def fail(self, job: Job, why: str) -> None:
        """Settle a job that is given up; `why` is kept with it for 7 days. Never raises, as `complete`."""
        await self._settle([job], lambda: [self._commands.failed(job, why)])

    async def retry(self, job: Job, *, after: float, why: str, data: object = None) -> None:
        """Put a job back to be tried again after so many seconds; it counts as a try.

        data: what it carries from now on; None = as before. Never raises, as `complete`.
        """
        fields = {"failedReason": why}
        if data is not None:
            fields["data"] = json.dumps(data, separators=(",", ":"))
        await self._settle(
            [job], lambda: [self._commands.delayed(job.id, job.token, max(0.0, after), fields, counts=True)]
        )

    async def give_back(self, jobs: Sequence[Job]) -> None:
        """Put jobs back that were not begun. Never raises, as `complete`."""
        await self._settle(
            jobs, lambda: [self._commands.delayed(job.id, job.token, 0, {}, counts=False) for job in jobs]
        )

    async def stats(self) -> LaneStats:
        """Say how the queue stands, in jobs; the rate in units. Raises BackendError."""
        return await self._commands.stats()

    async def tidy(self) -> None:
        """Erase completed jobs after 24 hours and failed ones after 7 days. Raises BackendError."""
        await self._commands.clean()

    async def close(self) -> None:
        """Stop taking; jobs that were fetched and not handed out go back. What was handed out can still be settled."""
        self._stop.set()
        if self._blocked is not None:
            self._blocked.cancel()
        async with self._turn:
            spare, self._spare = self._spare, []
        if spare:
            await self.give_back(spare)
        if self._keeper is not None:
            # we may have swallowed a wake-up: others look at once instead of after `BLOCK`
            with contextlib.suppress(BackendError):
                await self._commands.wake()

    async def release(self) -> None:
        """Stop renewing locks, after `close` and the last settling."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _fetch(self, limit: int) -> Look:
        """Put what is fetched among the spare ones. A taker that is cancelled meanwhile leaves it to the next."""
        fetching = asyncio.ensure_future(self._fetched(limit))
        try:
            return await asyncio.shield(fetching)
        except asyncio.CancelledError:
            await asyncio.wait([fetching])
            if not fetching.cancelled() and isinstance(fetching.exception(), BackendError):
                self._ghosts = True
            raise

    async def _fetched(self, limit: int) -> Look:
        if self._ghosts:
            await self._give_back_ghosts()
        self._takes += 1
        found: list[Job] = []
        try:
            return await self._commands.move_to_active(f"{self._id}:{self._takes}", limit, found)
        except BackendError:
            self._ghosts = True
            if not found:
                raise
            return Look()
        finally:
            self._held.update({(job.id, job.token): job for job in found})
            self._spare += found

    async def _wait(self, look: Look) -> None:
        """Wait for what may bring a job: the limiter's pause (facts: queue, 2), a due time, or somebody's wake-up."""
        if self._stop.is_set():
            return
        if look.limited_for:
            await self._rest(look.limited_for)
            return
        block = BLOCK
        if look.next_due is not None:
            # fractions of a second as they are: rounding up makes short retries late (facts: queue, 12)
            block = min(BLOCK, max(look.next_due - time.time(), 0.001))
        self._blocked = blocked = asyncio.ensure_future(self._commands.block(block))
        try:
            await asyncio.wait([blocked])
        finally:
            self._blocked = None
            if not blocked.done():
                blocked.cancel()
                await asyncio.wait([blocked])
        if not blocked.cancelled():
            blocked.result()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _settle(self, jobs: Sequence[Job], calls: Callable[[], Sequence[Call]], *, counted: int = 0) -> None:
        if not jobs and not counted:
            return
        try:
            refused = await self._commands.run(calls(), counted=counted)
        except BackendError as error:
            log.warning("jobs_not_settled", queue=self.name, jobs=len(jobs), problem=error.message)
            return
        except Exception:  # something in a job that cannot be said again must not end the loop that took it
            log.exception("jobs_not_settled", queue=self.name, jobs=[job.id for job in jobs])
            return
        finally:
            # not before: what is ours and not held here looks to the next fetch as if we had never heard of it
            for job in jobs:
                self._held.pop((job.id, job.token), None)
        if refused:
            # the lock ran out or the server lost the job: somebody else has it, or the database tells it again
            log.info("jobs_not_ours_any_more", queue=self.name, jobs=len(refused), first=refused[0])

    async def _keep(self) -> None:
        """Renew our locks and put back what dead workers held, until released. Nothing that goes wrong ends this."""
        while True:
            pause = self._keep_every
            try:
                if self._held:
                    for job_id, token in await self._lost():
                        self._held.pop((job_id, token), None)
                await self._commands.rescue_stalled(self._most_stalls, self._keep_every)
            except BackendError:
                pause = min(pause, AWAY)
            except Exception:  # whatever it is: jobs whose locks run out would be worked on twice
                log.exception("keeping_jobs_failed", queue=self.name)
            await asyncio.sleep(pause)

    async def _lost(self) -> list[tuple[str, str]]:
        ours = list(self._held)
        lost = await self._commands.extend(ours)
        return [key for key in ours if key[0] in lost]

    async def _give_back_ghosts(self) -> None:
        owned = await self._commands.owned(f"{self._id}:")
        ghosts = [key for key in owned if key not in self._held]
        if ghosts:
            await self._commands.run([self._commands.delayed(*key, 0, {}, counts=False) for key in ghosts])
        self._ghosts = False
