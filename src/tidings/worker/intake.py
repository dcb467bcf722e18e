"""The intake: takes the jobs that other services add, accepts what they ask for, and tells them what came of it.

a job of one user    accepted together with those that were taken with it, in one transaction
a batch              accepted some users at a time; who cannot be told is listed in its answer, the others are told
a malformed job      fails at once, with the fields and the fixes
a fault of ours      the job is tried again after 2, 4, 8 seconds, and as long as the database is away
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from tidings.edge import jobs
from tidings.edge.asked import Asked, NotTold
from tidings.errors import BackendError, Conflict, Invalid, TidingsError
from tidings.flow.intake.outside import Accepted, Part, Parts
from tidings.model.request import NotifyRequest
from tidings.model.user import Address
from tidings.ports.clock import Clock
from tidings.ports.store import Store
from tidings.worker.desk import Desk, Room

if TYPE_CHECKING:
    from tidings.queues.bullmq import JobSource
    from tidings.queues.bullmq_commands import Job

log = structlog.get_logger(__name__)

#: seconds until a job that met a fault of ours is tried again, after each failed try (MISSION M27)
RETRIES = (2.0, 4.0, 8.0)
#: a wait is longer by up to this part of it, so that jobs that failed together do not come back together
JITTER = 0.25
#: seconds between looks for a database that is away; nothing is taken meanwhile
ASK_EVERY = 1.0
NO_SUCH_USER = "no such user; PUT /api/users/ID first"


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a worker does at once (MISSION M28)."""

    single_jobs: int
    batch_jobs: int
    #: users of a batch accepted in one transaction
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """A job that is well formed."""

    job: "Job"
    asked: Asked


class Intake:
    """Works on one queue until it is closed."""

    def __init__(
        self,
        source: "JobSource",
        parts: Parts,
        store: Store,
        clock: Clock,
        capacity: Capacity,
        jitter: Callable[[], float],
    ) -> None:
        """jitter: returns a random number, 0 ≤ n < 1."""
        self._source = source
        self._parts = parts
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._jitter = jitter
        self._closing = asyncio.Event()
        self._away = False
        one, many = capacity.single_jobs, capacity.batch_jobs
        self._singles = Desk(self._single, Room(places=1, together=one, waiting=0))
        # batches may wait here, rather than hold up the jobs behind them
        self._batches = Desk(self._batch, Room(places=many, together=1, waiting=many))

    async def run(self) -> None:
        """Take jobs and do them, until `close` and the end of what was begun."""
        async with asyncio.TaskGroup() as group:
            while jobs_taken := await self._next():
                read = [one for job in jobs_taken if (one := await self._read(job)) is not None]
                if singles := [one for one in read if not one.asked.many]:
                    await self._singles.put(group, singles)
                for batch in (one for one in read if one.asked.many):
                    await self._batches.put(group, [batch])
            if left := [*self._singles.leave(), *self._batches.leave()]:
                await self._source.give_back([one.job for one in left])

    async def tidy(self) -> None:
        """Erase jobs that were kept long enough. Raises BackendError."""
        await self._source.tidy()

    async def close(self) -> None:
        """Take nothing more; batches stop at the end of their transaction and are given back."""
        self._closing.set()
        await self._source.close()

    async def _next(self) -> "Sequence[Job]":
        while self._away and not self._closing.is_set():
            try:
                await self._store.ping()
            except BackendError:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ASK_EVERY):
                        await self._closing.wait()
            else:
                self._away = False
                log.info("intake_goes_on", queue=self._source.name)
        return await self._source.take(self._capacity.single_jobs)

    async def _read(self, job: "Job") -> _Taken | None:
        """Return a job that is well formed; another one fails, and holds up nobody."""
        try:
            if job.broken is not None:
                raise Invalid.field("data", job.broken, code="broken_job")
            return _Taken(job, jobs.read(job.name, job.data, priority=job.priority))
        except Invalid as error:
            await self._refuse(job, error)
        except Exception as error:  # noqa: BLE001  # a bug must cost one job, not the loop
            await self._stumbled([job], error)
        return None

    async def _single(self, taken: Sequence[_Taken]) -> None:
        """Accept jobs of one user each."""
        try:
            found = await self._parts.accept([self._part(one, one.asked.whom, "one") for one in taken])
        except Exception as error:  # noqa: BLE001  # as above
            if len(taken) > 1 and not isinstance(error, BackendError):
                # one of them is to blame, and must not take the others along
                for one in taken:
                    await self._single([one])
                return
            await self._stumbled([one.job for one in taken], error)
            return
        done: list[tuple[Job, object]] = []
        for one, came in zip(taken, found, strict=True):
            match came:
                case Accepted():
                    done.append((one.job, {"id": came.id, "accepted": came.users, "failed": []}))
                case Invalid():
                    await self._refuse(one.job, one.asked.in_its_words(came))
                case Conflict():
                    await self._again(one.job, came)
        if done:
            await self._source.complete([job for job, _ in done], answers=[answer for _, answer in done])

    async def _batch(self, taken: Sequence[_Taken]) -> None:
        """Accept one job of many users."""
        [one] = taken
        try:
            answer = await self._told(one)
        except Exception as error:  # noqa: BLE001  # as above
            await self._stumbled([one.job for one in taken], error)
            return
        match answer:
            case None:
                await self._source.give_back([one.job])
            case Invalid():
                await self._refuse(one.job, answer)
            case _:
                await self._source.complete([one.job], answers=[answer])

    async def _told(self, one: _Taken) -> "dict[str, object] | Invalid | None":
        """Tell the users of a batch, some at a time. Returns the answer; None when the worker stopped midway.

        Whoever continues it meets the keys of the parts that are done. Each says where the next one begins, so that
        workers with other settings cut the rest in the same places.
        """
        whom = one.asked.whom
        assert isinstance(whom, tuple), "a batch names its users"
        ids: list[str] = []
        accepted, start = 0, 0
        not_told = list(one.asked.wrong)
        while start < len(whom):
            if self._closing.is_set():
                return None
            part = self._part(one, whom[start : start + self._capacity.batch_size], str(start))
            [came] = await self._parts.accept([part])
            if isinstance(came, Conflict):
                raise came
            if isinstance(came, Invalid):
                # what is wrong with one part is wrong with the rest
                wrong = one.asked.in_its_words(came)
                if not ids:
                    return wrong
                not_told += [NotTold(user_id, wrong.message) for user_id in whom[start:]]
                break
            ids += [came.id] if came.id is not None else []
            accepted += came.users
            not_told += [NotTold(user_id, NO_SUCH_USER) for user_id in came.unknown]
            start += came.taken
        if not whom:
            return Invalid.field("userIds", f"none is a user id: {not_told[0].user_id!r} {not_told[0].reason}")
        failed = [{"userId": who.user_id, "reason": who.reason} for who in not_told]
        return {"ids": ids, "accepted": accepted, "failed": failed}

    def _part(self, one: _Taken, whom: tuple[str, ...] | Address, name: str) -> Part:
        job, asked = one.job, one.asked

        def request(user_ids: Sequence[str]) -> NotifyRequest:
            return asked.request(user_ids, self._clock.now(), source=f"job:{job.name}:{job.id}")

        # ids that the server counts begin again when it lost its data, so the time the job was added belongs to it
        added = round(job.added_at.timestamp() * 1000)
        digest = hashlib.sha256(f"{job.id}\n{added}".encode()).hexdigest()
        return Part(
            caller=f"queue:{self._source.name}",
            key=f"{digest}:{name}",
            whom=whom,
            request=request,
            may_be_empty=asked.many,
        )

    async def _stumbled(self, stopped: "Sequence[Job]", error: Exception) -> None:
        """Have jobs tried again that met a fault which is not theirs."""
        if isinstance(error, Invalid):
            # the database cannot keep a value of it
            for job in stopped:
                await self._refuse(job, error)
            return
        if isinstance(error, BackendError):
            if not self._away:
                log.warning("intake_waits", queue=self._source.name, problem=error.message)
            self._away = True
        elif not isinstance(error, TidingsError):
            log.error("job_failed", queue=self._source.name, jobs=[job.id for job in stopped], exc_info=error)
        for job in stopped:
            await self._again(job, error)

    async def _again(self, job: "Job", error: Exception) -> None:
        why = error.message if isinstance(error, TidingsError) else f"internal error: {type(error).__name__}"
        tries = job.attempts_made
        # a database that is away comes back; a bug does not go away
        if tries >= len(RETRIES) and not isinstance(error, BackendError | Conflict):
            await self._source.fail(job, f"gave up after {tries + 1} tries: {why}")
            return
        wait = RETRIES[min(tries, len(RETRIES) - 1)]
        await self._source.retry(job, after=wait * (1 + JITTER * self._jitter()), why=why)

    async def _refuse(self, job: "Job", error: Invalid) -> None:
        # the reason may hold somebody's address: it stays with the job, the log names the fields
        fields = [fault.field for fault in error.faults]
        log.warning("job_refused", queue=self._source.name, job=job.id, code=error.code, fields=fields)
        await self._source.fail(job, error.message)
