"""A typed client for one BullMQ queue: the data layer of the official package, with a deadline for each call.

The package's Lua scripts, job format and key names are used unchanged, so BullMQ clients in any language can add jobs
and read counts. This is the only module that imports the package. All methods raise BackendError when the server is
unavailable.
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
from tidings.queues.bullmq_codec import NewJob
from tidings.redis_client import FAST_TIMEOUT, SLOW_TIMEOUT, RedisClient

#: BullMQ's default key prefix
KEY_PREFIX = "bull"
#: retention of finished jobs: completed 24 h, failed 7 days; `count` bounds the memory they use
KEEP_COMPLETED = {"age": 24 * 3600, "count": 10_000, "limit": 1000}
KEEP_FAILED = {"age": 7 * 24 * 3600, "count": 100_000, "limit": 1000}
#: jobs per round trip
JOBS_PER_ROUND_TRIP = 200
#: calls of the clean script per set, each for up to a thousand jobs
MAX_CLEAN_ROUNDS = 10
#: active jobs that `list_active_by_token` reads
MAX_ACTIVE_SCANNED = 1000
#: the rate is averaged over this many buckets of `RATE_BUCKET_SECONDS` seconds
RATE_BUCKETS = 6
RATE_BUCKET_SECONDS = 10
#: KEYS of the script that moves jobs to active, in its order
_MOVE_TO_ACTIVE_KEYS = [
    "wait",
    "active",
    "prioritized",
    "events",
    "stalled",
    "limiter",
    "delayed",
    "paused",
    "meta",
    "pc",
]
#: job options that the scripts receive with a finished job
_PARENT_OPTIONS = (
    "failParentOnFailure",
    "continueParentOnFailure",
    "ignoreDependencyOnFailure",
    "removeDependencyOnFailure",
)
#: raised while decoding a job of another producer: invalid JSON, a wrong type, a timestamp out of range
_DECODE_ERRORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, OSError, RecursionError)


@dataclass(frozen=True, slots=True, eq=False)
class BullMQJob:
    """A fetched job. No other consumer receives it until it is finished or its lock expires."""

    id: str
    name: str
    #: decoded JSON
    data: object
    #: failed attempts before this one
    attempts_made: int
    #: attempts that the producer allows
    max_attempts: int
    added_at: datetime
    #: BullMQ's priority: 1 is the most urgent, 0 = none
    priority: int
    token: str = field(repr=False)
    #: why the job cannot be processed; None = it can be
    invalid_reason: str | None
    #: the package's record of the job, for its scripts
    package_job: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchHint:
    """When the next fetch can return jobs, according to the last one."""

    #: seconds until the rate limiter allows a job
    rate_limited_for: float = 0.0
    #: when the next delayed job is due, in seconds since 1970; None = no job is delayed
    next_due_at: float | None = None


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One call of a BullMQ script."""

    script: str
    keys: Sequence[str]
    args: Sequence[Any]


class BullMQClient:
    """The commands of one BullMQ queue."""

    def __init__(
        self, redis_client: RedisClient, name: str, *, limit_per_second: int | None, lock_duration: float
    ) -> None:
        """limit_per_second: jobs, over all processes; None = no limit. lock_duration: seconds until a lock expires."""
        self._redis_client = redis_client
        limiter = {"max": limit_per_second, "duration": 1000} if limit_per_second else None
        self._lock_ms = int(lock_duration * 1000)
        options = {
            "connection": redis_client.client,
            "prefix": KEY_PREFIX,
            "lockDuration": self._lock_ms,
            "limiter": limiter,
        }
        self._active_options = {"lockDuration": self._lock_ms, "limiter": limiter}
        self._queue = PackageQueue(name, options)
        self._scripts = self._queue.scripts
        #: scripts that the server has loaded; asking before each call would double the round trips
        self._loaded_scripts: set[str] = set()
        self._keys: dict[str, str] = self._queue.keys

    async def add(self, jobs: Sequence[NewJob], now: datetime) -> None:
        """Add jobs. BullMQ ignores a job whose id it knows."""
        entries = []
        for job in jobs:
            options: dict[str, object] = {"jobId": job.id}
            if delay := max(0, round((job.due_at - now).total_seconds() * 1000)):
                options["delay"] = delay
            entries.append({"name": job.name, "data": job.data, "opts": options})
        for start in range(0, len(entries), JOBS_PER_ROUND_TRIP):
            async with self._redis_client.deadline(FAST_TIMEOUT):
                await self._queue.addBulk(entries[start : start + JOBS_PER_ROUND_TRIP])

    async def move_to_active(self, token: str, limit: int, jobs: list[BullMQJob]) -> FetchHint:
        """Lock up to `limit` jobs with `token` and append them to `jobs`, which keeps them if a later call fails."""
        async with self._redis_client.deadline(SLOW_TIMEOUT) as redis:
            hint, waiting = await self._move_to_active(redis, token, 1, jobs)
            more = min(limit - 1, waiting)
            if jobs and more > 0:
                hint, _ = await self._move_to_active(redis, token, more, jobs)
        return hint

    def build_complete_call(self, job: BullMQJob, return_value: object) -> ScriptCall:
        """Return the call that completes a held job. return_value: a JSON value."""
        return ScriptCall(
            "moveToFinished",
            *self._scripts.moveToCompletedArgs(job.package_job, return_value, KEEP_COMPLETED, job.token, False),
        )

    def build_fail_call(self, job: BullMQJob, why: str) -> ScriptCall:
        """Return the call that fails a held job permanently."""
        fields = {"failedReason": why, "stacktrace": "[]"}
        return ScriptCall(
            "moveToFinished",
            *self._scripts.moveToFailedArgs(job.package_job, why, KEEP_FAILED, job.token, False, fields),
        )

    def build_delay_call(
        self, job_id: str, token: str, delay_seconds: float, fields: dict[str, str], *, counts_as_attempt: bool
    ) -> ScriptCall:
        """Return the call that delays a held job. counts_as_attempt: whether its attempt counter grows."""
        options = {"skipAttempt": not counts_as_attempt, "fieldsToUpdate": fields}
        now = round(time.time() * 1000)
        return ScriptCall(
            "moveToDelayed", *self._scripts.moveToDelayedArgs(job_id, now, token, round(delay_seconds * 1000), options)
        )

    async def run(self, calls: Sequence[ScriptCall], *, completed_units: int = 0) -> list[str]:
        """Run calls in few round trips; return the error code of each call that a script refused.

        completed_units: added to the counter from which `stats` computes the rate.
        """
        refused: list[str] = []
        for start in range(0, max(len(calls), 1), JOBS_PER_ROUND_TRIP):
            chunk, counting = calls[start : start + JOBS_PER_ROUND_TRIP], []
            if completed_units and start == 0:
                key = self._rate_key(int(time.time()) // RATE_BUCKET_SECONDS)
                counting = [("INCRBY", key, completed_units), ("EXPIRE", key, 2 * RATE_BUCKETS * RATE_BUCKET_SECONDS)]
            async with self._redis_client.deadline(SLOW_TIMEOUT) as redis:
                results = await self._execute(redis, chunk, counting)
            refused += [str(result) for result in results[: len(chunk)] if result != 0]
        return refused

    async def extend_locks(self, held_keys: Sequence[tuple[str, str]]) -> set[str]:
        """Renew the locks of jobs, given as (id, token); return the ids of jobs whose lock is lost."""
        ids, tokens = [job_id for job_id, _ in held_keys], [token for _, token in held_keys]
        async with self._redis_client.deadline(SLOW_TIMEOUT):
            return set(await self._scripts.extendJobLocks(ids, tokens, self._lock_ms))

    async def move_stalled_to_wait(self, max_stalls: int, interval: float) -> None:
        """Requeue jobs whose lock expired.

        max_stalls: a job that stalled more often fails. interval: seconds between checks, over all processes.
        """
        async with self._redis_client.deadline(SLOW_TIMEOUT):
            await self._scripts.moveStalledJobsToWait(max_stalls, int(interval * 1000))

    async def list_active_by_token(self, token_prefix: str) -> list[tuple[str, str]]:
        """Return (id, token) of the active jobs whose token begins with `token_prefix`."""
        async with self._redis_client.deadline(SLOW_TIMEOUT) as redis:
            (active,) = await self._execute(redis, [], [("LRANGE", self._keys["active"], 0, MAX_ACTIVE_SCANNED - 1)])
            keys = [f"{self._queue.toKey(job_id)}:lock" for job_id in active]
            (locks,) = await self._execute(redis, [], [("MGET", *keys)]) if keys else [[]]
        return [
            (job_id, lock) for job_id, lock in zip(active, locks, strict=True) if lock and lock.startswith(token_prefix)
        ]

    async def wait_for_marker(self, seconds: float) -> None:
        """Block until another client signals work, at most `seconds`."""
        async with self._redis_client.deadline(seconds + SLOW_TIMEOUT) as redis:
            await redis.bzpopmin(self._keys["marker"], seconds)

    async def add_marker(self) -> None:
        """Signal work to a blocked consumer."""
        async with self._redis_client.deadline(FAST_TIMEOUT) as redis:
            await redis.zadd(self._keys["marker"], {"0": 0})

    async def stats(self) -> LaneStats:
        """Return the queue's counts, in jobs, and its rate, in the units given to `run`."""
        bucket = int(time.time()) // RATE_BUCKET_SECONDS
        async with self._redis_client.deadline(FAST_TIMEOUT) as redis:
            counts = [("LLEN", self._keys["wait"]), ("LLEN", self._keys["active"])]
            counts += [("ZCARD", self._keys[ranked]) for ranked in ("prioritized", "delayed", "failed", "completed")]
            rate_keys = [self._rate_key(bucket - age) for age in range(RATE_BUCKETS)]
            answers = await self._execute(
                redis, [], [*counts, ("LINDEX", self._keys["wait"], -1), ("MGET", *rate_keys)]
            )
            waiting, active, prioritized, delayed, failed, completed, oldest_id, rate_counts = answers
            lookup = [("HGET", self._queue.toKey(oldest_id), "timestamp")] if oldest_id else []
            added_at = (await self._execute(redis, [], lookup) or [None])[0]
        return LaneStats(
            waiting=waiting + prioritized,
            active=active,
            delayed=delayed,
            failed=failed,
            completed=completed,
            oldest_published_at=_to_datetime(added_at) if added_at else None,
            rate=sum(int(count) for count in rate_counts if count) / (RATE_BUCKETS * RATE_BUCKET_SECONDS),
        )

    async def clean(self) -> None:
        """Delete finished jobs past retention. BullMQ itself does so only when a job finishes (decision 8, 10)."""
        for kind, keep in (("completed", KEEP_COMPLETED), ("failed", KEEP_FAILED)):
            for _ in range(MAX_CLEAN_ROUNDS):
                async with self._redis_client.deadline(SLOW_TIMEOUT):
                    if not await self._queue.clean(keep["age"] * 1000, keep["limit"], kind):
                        break

    async def _move_to_active(
        self, redis: Redis, token: str, count: int, jobs: list[BullMQJob]
    ) -> tuple[FetchHint, int]:
        keys = self._scripts.getKeys([*_MOVE_TO_ACTIVE_KEYS, "marker"])
        options = msgpack.packb({"token": token, **self._active_options}, use_bin_type=True)
        args = [self._keys[""], round(time.time() * 1000), options]
        lengths = [("LLEN", self._keys["wait"]), ("ZCARD", self._keys["prioritized"])]
        *results, waiting, prioritized = await self._execute(
            redis, [ScriptCall("moveToActive", keys, args)] * count, lengths
        )
        hint = FetchHint()
        for result in results:
            raw, job_id, limited_ms, due_ms = raw2NextJobData(result)
            if raw:
                jobs.append(self._decode_job(raw, job_id, token))
            hint = FetchHint((limited_ms or 0) / 1000, due_ms / 1000 if due_ms else None)
        return hint, waiting + prioritized

    async def _execute(
        self, redis: Redis, calls: Sequence[ScriptCall], plain_commands: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Run scripts and plain commands in one round trip. A refusal by a script is a result; an error is raised."""
        try:
            return await self._execute_pipeline(redis, calls, plain_commands)
        except NoScriptError:
            # the server restarted without the scripts and ran none of them: load them and repeat
            self._loaded_scripts.clear()
            return await self._execute_pipeline(redis, calls, plain_commands)

    async def _execute_pipeline(
        self, redis: Redis, calls: Sequence[ScriptCall], plain_commands: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        scripts = self._scripts.commands
        names = {call.script for call in calls}
        async with redis.pipeline(transaction=False) as pipe:
            for name in names - self._loaded_scripts:
                pipe.script_load(scripts[name].script)
            loads = len(pipe)
            for call in calls:
                pipe.evalsha(scripts[call.script].sha, len(call.keys), *call.keys, *call.args)
            for command in plain_commands:
                pipe.execute_command(*command)
            results = await pipe.execute()
        self._loaded_scripts |= names
        return list(results[loads:])

    def _decode_job(self, raw: dict[str, str], job_id: str, token: str) -> BullMQJob:
        try:
            package = PackageJob.fromJSON(self._queue, raw, job_id)
            # the finishing scripts pack these values: a value that cannot be packed must fail this job alone, here
            msgpack.packb(
                [package.attempts, package.attemptsMade, [package.opts.get(name) for name in _PARENT_OPTIONS]]
            )
            added_at = _to_datetime(package.timestamp)
            invalid_reason = package.deferredFailure or (None if package.name else "its data is missing")
        except _DECODE_ERRORS as error:
            package = PackageJob(self._queue, raw.get("name"), None, {}, job_id)
            added_at = _to_datetime(package.timestamp)
            invalid_reason = f"cannot be decoded: {error}"
        return BullMQJob(
            id=job_id,
            name=package.name or "",
            data=package.data,
            attempts_made=package.attemptsMade,
            max_attempts=package.attempts,
            added_at=added_at,
            priority=package.priority,
            token=token,
            invalid_reason=invalid_reason,
            package_job=package,
        )

    def _rate_key(self, bucket: int) -> str:
        return str(self._queue.toKey(f"done:{bucket}"))


def _to_datetime(milliseconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
