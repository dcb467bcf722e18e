"""What can be said to one BullMQ queue: the official package's data layer, typed and with deadlines.

The package's Lua scripts, job format and key names are used as they are, so that any BullMQ in any language can add
jobs and read counts. This is the only file that imports the package. Its methods raise BackendError when the server is
away.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships no types
from bullmq import Job as PackageJob  # type: ignore[import-untyped]  # ships no types
from bullmq import Queue as PackageQueue
from bullmq.scripts import raw2NextJobData  # type: ignore[import-untyped]
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from tidings.ports.queue import LaneStats
from tidings.queues.bullmq_jobs import NewJob
from tidings.redis_link import PATIENT, PROMPT, RedisLink

#: the prefix of every BullMQ client that was not told another
PREFIX = "bull"
#: kept: finished jobs 24 h, failed ones 7 days (MISSION M27), and never so many that they fill the memory
KEEP_COMPLETED = {"age": 24 * 3600, "count": 10_000, "limit": 1000}
KEEP_FAILED = {"age": 7 * 24 * 3600, "count": 100_000, "limit": 1000}
#: jobs in one round trip
CHUNK = 200
#: rounds of `clean` for each set, of a thousand jobs each
CLEAN_ROUNDS = 10
#: active jobs that `owned` looks at
OWNED_AT_MOST = 1000
#: the rate is told over this many steps of `RATE_STEP` seconds
RATE_STEPS = 6
RATE_STEP = 10
#: what the script that moves jobs to active wants to know of, in its order
_ACTIVE_KEYS = ["wait", "active", "prioritized", "events", "stalled", "limiter", "delayed", "paused", "meta", "pc"]
#: options that the scripts get with a settled job
_OF_PARENTS = (
    "failParentOnFailure",
    "continueParentOnFailure",
    "ignoreDependencyOnFailure",
    "removeDependencyOnFailure",
)
#: what reading a job raises that somebody else wrote: no JSON, another type, a time that no calendar has
_UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, OSError, RecursionError)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A job in our hands: nobody else gets it until it is settled, or this process was silent for its lock's time."""

    id: str
    name: str
    #: decoded JSON
    data: object
    #: failed tries before this one, and how many tries its producer allows
    attempts_made: int
    attempts: int
    added_at: datetime
    #: BullMQ's own, 1 first; 0 = none
    priority: int
    token: str = field(repr=False)
    #: why it cannot be worked on; None = it can
    broken: str | None
    #: the package's own record of it
    package: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class Look:
    """What the last look for jobs said about the next."""

    #: seconds the limiter wants us to wait
    limited_for: float = 0.0
    #: seconds since 1970 at which the next delayed job is due
    next_due: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One script and what it gets."""

    script: str
    keys: Sequence[str]
    args: Sequence[Any]


class BullCommands:
    """The commands of one queue."""

    def __init__(self, link: RedisLink, name: str, *, limit_per_second: int | None, lock: float) -> None:
        """lock: seconds. limit_per_second: over all processes; None = no limit."""
        self._link = link
        limiter = {"max": limit_per_second, "duration": 1000} if limit_per_second else None
        self._lock_ms = int(lock * 1000)
        options = {"connection": link.client, "prefix": PREFIX, "lockDuration": self._lock_ms, "limiter": limiter}
        self._active_options = {"lockDuration": self._lock_ms, "limiter": limiter}
        self._queue = PackageQueue(name, options)
        self._scripts = self._queue.scripts
        #: scripts the server is known to have: asking each time would double the round trips
        self._loaded: set[str] = set()
        self._key: dict[str, str] = self._queue.keys

    async def add(self, jobs: Sequence[NewJob], now: datetime) -> None:
        """Add jobs; one whose id is known already is not added again."""
        described = []
        for job in jobs:
            options: dict[str, object] = {"jobId": job.id}
            if delay := max(0, round((job.due_at - now).total_seconds() * 1000)):
                options["delay"] = delay
            described.append({"name": job.name, "data": job.data, "opts": options})
        for start in range(0, len(described), CHUNK):
            async with self._link.within(PROMPT):
                await self._queue.addBulk(described[start : start + CHUNK])

    async def move_to_active(self, token: str, limit: int, found: list[Job]) -> Look:
        """Make up to `limit` jobs ours. They are added to `found` as they come, for the case that this fails midway."""
        async with self._link.within(PATIENT) as redis:
            look, waiting = await self._moved(redis, token, 1, found)
            more = min(limit - 1, waiting)
            if found and more > 0:
                look, _ = await self._moved(redis, token, more, found)
        return look

    def completed(self, job: Job, answer: object) -> Call:
        """Return the call that moves a job of ours to the completed ones; `answer` is plain JSON."""
        return Call(
            "moveToFinished", *self._scripts.moveToCompletedArgs(job.package, answer, KEEP_COMPLETED, job.token, False)
        )

    def failed(self, job: Job, why: str) -> Call:
        """Return the call that moves a job of ours to the failed ones."""
        fields = {"failedReason": why, "stacktrace": "[]"}
        return Call(
            "moveToFinished", *self._scripts.moveToFailedArgs(job.package, why, KEEP_FAILED, job.token, False, fields)
        )

    def delayed(self, job_id: str, token: str, after: float, fields: dict[str, str], *, counts: bool) -> Call:
        """Return the call that puts a job of ours back for so many seconds; `counts`: as a try."""
        options = {"skipAttempt": not counts, "fieldsToUpdate": fields}
        now = round(time.time() * 1000)
        return Call("moveToDelayed", *self._scripts.moveToDelayedArgs(job_id, now, token, round(after * 1000), options))

    async def run(self, calls: Sequence[Call], *, counted: int = 0) -> list[str]:
        """Make calls together; `counted` goes into the rate. Return what the server said to those it refused."""
        refused: list[str] = []
        for start in range(0, max(len(calls), 1), CHUNK):
            chunk, plain = calls[start : start + CHUNK], []
            if counted and start == 0:
                done = self._rate_key(int(time.time()) // RATE_STEP)
                plain = [("INCRBY", done, counted), ("EXPIRE", done, 2 * RATE_STEPS * RATE_STEP)]
            async with self._link.within(PATIENT) as redis:
                answers = await self._answers(redis, chunk, plain)
            refused += [str(answer) for answer in answers[: len(chunk)] if answer != 0]
        return refused

    async def extend(self, ours: Sequence[tuple[str, str]]) -> set[str]:
        """Renew the locks of jobs by id and token; return the ids that are not ours any more."""
        ids, tokens = [job_id for job_id, _ in ours], [token for _, token in ours]
        async with self._link.within(PATIENT):
            return set(await self._scripts.extendJobLocks(ids, tokens, self._lock_ms))

    async def rescue_stalled(self, most_stalls: int, every: float) -> None:
        """Put back what dead workers held; all processes together look once in `every` seconds."""
        async with self._link.within(PATIENT):
            await self._scripts.moveStalledJobsToWait(most_stalls, int(every * 1000))

    async def owned(self, prefix: str) -> list[tuple[str, str]]:
        """Return id and token of the active jobs whose token begins with `prefix`."""
        async with self._link.within(PATIENT) as redis:
            (active,) = await self._answers(redis, [], [("LRANGE", self._key["active"], 0, OWNED_AT_MOST - 1)])
            keys = [f"{self._queue.toKey(job_id)}:lock" for job_id in active]
            (locks,) = await self._answers(redis, [], [("MGET", *keys)]) if keys else [[]]
        return [(job_id, lock) for job_id, lock in zip(active, locks, strict=True) if lock and lock.startswith(prefix)]

    async def block(self, seconds: float) -> None:
        """Wait until somebody says that there is work, or so many seconds."""
        async with self._link.within(seconds + PATIENT) as redis:
            await redis.bzpopmin(self._key["marker"], seconds)

    async def wake(self) -> None:
        """Say that there is work."""
        async with self._link.within(PROMPT) as redis:
            await redis.zadd(self._key["marker"], {"0": 0})

    async def stats(self) -> LaneStats:
        """Say how the queue stands, in jobs; the rate in what `run` counted."""
        step = int(time.time()) // RATE_STEP
        async with self._link.within(PROMPT) as redis:
            counts = [("LLEN", self._key["wait"]), ("LLEN", self._key["active"])]
            counts += [("ZCARD", self._key[ranked]) for ranked in ("prioritized", "delayed", "failed", "completed")]
            steps = [self._rate_key(step - back) for back in range(RATE_STEPS)]
            answers = await self._answers(redis, [], [*counts, ("LINDEX", self._key["wait"], -1), ("MGET", *steps)])
            waiting, active, prioritized, delayed, failed, completed, first, done = answers
            times = [("HGET", self._queue.toKey(first), "timestamp")] if first else []
            added = (await self._answers(redis, [], times) or [None])[0]
        return LaneStats(
            waiting=waiting + prioritized,
            active=active,
            delayed=delayed,
            failed=failed,
            completed=completed,
            oldest=_instant(added) if added else None,
            rate=sum(int(count) for count in done if count) / (RATE_STEPS * RATE_STEP),
        )

    async def clean(self) -> None:
        """Erase what was kept long enough: the server does so only while other jobs finish (facts: queue, 10)."""
        for kind, keep in (("completed", KEEP_COMPLETED), ("failed", KEEP_FAILED)):
            for _ in range(CLEAN_ROUNDS):
                async with self._link.within(PATIENT):
                    if not await self._queue.clean(keep["age"] * 1000, keep["limit"], kind):
                        break

    async def _moved(self, redis: Redis, token: str, count: int, found: list[Job]) -> tuple[Look, int]:
        keys = self._scripts.getKeys([*_ACTIVE_KEYS, "marker"])
        options = msgpack.packb({"token": token, **self._active_options}, use_bin_type=True)
        args = [self._key[""], round(time.time() * 1000), options]
        lengths = [("LLEN", self._key["wait"]), ("ZCARD", self._key["prioritized"])]
        *answers, waiting, prioritized = await self._answers(redis, [Call("moveToActive", keys, args)] * count, lengths)
        look = Look()
        for answer in answers:
            raw, job_id, limited, due = raw2NextJobData(answer)
            if raw:
                found.append(self._read(raw, job_id, token))
            look = Look((limited or 0) / 1000, due / 1000 if due else None)
        return look, waiting + prioritized

    async def _answers(self, redis: Redis, calls: Sequence[Call], plain: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send scripts and plain commands in one round trip. A refusal by a script is an answer; errors are raised."""
        try:
            return await self._sent(redis, calls, plain)
        except NoScriptError:
            # the server started anew and ran none of them: send them again with their scripts
            self._loaded.clear()
            return await self._sent(redis, calls, plain)

    async def _sent(self, redis: Redis, calls: Sequence[Call], plain: Sequence[tuple[Any, ...]]) -> list[Any]:
        scripts = self._scripts.commands
        names = {call.script for call in calls}
        async with redis.pipeline(transaction=False) as pipe:
            for name in names - self._loaded:
                pipe.script_load(scripts[name].script)
            loads = len(pipe)
            for call in calls:
                pipe.evalsha(scripts[call.script].sha, len(call.keys), *call.keys, *call.args)
            for words in plain:
                pipe.execute_command(*words)
            answers = await pipe.execute()
        self._loaded |= names
        return list(answers[loads:])

    def _read(self, raw: dict[str, str], job_id: str, token: str) -> Job:
        try:
            package = PackageJob.fromJSON(self._queue, raw, job_id)
            # what its settling will say of it: found here, an impossible number costs this job and no other
            msgpack.packb([package.attempts, package.attemptsMade, [package.opts.get(name) for name in _OF_PARENTS]])
            added_at = _instant(package.timestamp)
            broken = package.deferredFailure or (None if package.name else "its data is gone")
        except _UNREADABLE as error:
            package = PackageJob(self._queue, raw.get("name"), None, {}, job_id)
            added_at = _instant(package.timestamp)
            broken = f"not readable: {error}"
        return Job(
            id=job_id,
            name=package.name or "",
            data=package.data,
            attempts_made=package.attemptsMade,
            attempts=package.attempts,
            added_at=added_at,
            priority=package.priority,
            token=token,
            broken=broken,
            package=package,
        )

    def _rate_key(self, step: int) -> str:
        return str(self._queue.toKey(f"done:{step}"))


def _instant(milliseconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
