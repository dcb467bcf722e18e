"""A BullMQ consumer: fetches jobs, renews their locks, finishes them and reconnects by itself.

It replaces the worker class of the official Python package, which leaves jobs active when it closes, ignores the rate
limiter's pause, rounds short waits up, and can be stopped by an error handler (decision 8).
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import uuid4

import structlog

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError
from tidings.ports.queue import LaneStats
from tidings.queues.bullmq_codec import NewJob
from tidings.queues.bullmq_commands import BullMQClient, BullMQJob, FetchHint, ScriptCall
from tidings.redis_client import RedisClient

log = structlog.get_logger(__name__)

#: seconds until an unrenewed lock expires; locks are renewed, and stalled jobs requeued, three times as often
LOCK_DURATION = 30.0
#: longest blocking wait in seconds; bounds the delay after a lost wake-up
BLOCK_TIMEOUT = 5.0
#: seconds between attempts while the server is unavailable
RECONNECT_DELAY = 1.0


class BullMQConsumer:
    """Adds, fetches and finishes the jobs of one queue. Any number of tasks of this process may call `receive`.

    If finishing a job fails, its lock expires and the job is handed out again.
    """

    def __init__(
        self,
        redis_client: RedisClient,
        name: str,
        *,
        limit_per_second: int | None = None,
        max_stalls: int = 1000,
        lock_duration: float = LOCK_DURATION,
        health: BackendHealth | None = None,
    ) -> None:
        """Create a consumer; nothing is connected yet.

        name: of the queue, in braces so that all its keys share a cluster slot.
        limit_per_second: jobs fetched per second by all processes together; None = no limit.
        max_stalls: worker crashes after which a job is handed out as invalid. Lanes use a high value, because the
        database counts crashes per delivery.
        lock_duration: seconds until the jobs of a dead process are handed out again.
        health: receives the result of every fetch; None = the caller observes the server itself.
        """
        self.name = name
        self._client = BullMQClient(redis_client, name, limit_per_second=limit_per_second, lock_duration=lock_duration)
        self._max_stalls = max_stalls
        self._health = health
        self._renew_interval = lock_duration / 3
        self._consumer_id = uuid4().hex
        self._fetch_count = 0
        self._held_jobs: dict[tuple[str, str], BullMQJob] = {}
        #: jobs that are locked by this process and not yet returned by `receive`
        self._prefetched: list[BullMQJob] = []
        #: whether a fetch whose response was lost may have locked jobs for this process
        self._has_unconfirmed_fetch = False
        self._fetch_lock = asyncio.Lock()
        self._stop_requested = asyncio.Event()
        self._marker_wait: asyncio.Task[None] | None = None
        self._lock_renewer: asyncio.Task[None] | None = None

    async def add(self, jobs: Sequence[NewJob], now: datetime) -> None:
        """Add jobs. BullMQ ignores a job whose id it knows. Raises BackendError."""
        await self._client.add(jobs, now)

    async def receive(self, limit: int) -> Sequence[BullMQJob]:
        """Wait for jobs and return up to `limit` of them, oldest first. An empty result means `stop` was called.

        An invalid job (no JSON, stalled too often) has an `invalid_reason`; the caller must `fail` it. While the server
        is unavailable this waits. Cancellation loses no job.
        """
        if self._lock_renewer is None and not self._stop_requested.is_set():
            self._lock_renewer = asyncio.create_task(self._renew_locks())
        async with self._fetch_lock:
            while not self._stop_requested.is_set():
                if self._prefetched:
                    jobs, self._prefetched = self._prefetched[:limit], self._prefetched[limit:]
                    return jobs
                try:
                    hint = await self._fetch(limit)
                    if not self._prefetched:
                        await self._wait_for_work(hint)
                except BackendError as error:
                    if self._health is not None:
                        self._health.record_failure(error)
                    await self._sleep_unless_stopped(RECONNECT_DELAY)
                else:
                    if self._health is not None:
                        self._health.record_success()
        return []

    async def complete(
        self, jobs: Sequence[BullMQJob], *, return_values: Sequence[object] = (), units: int | None = None
    ) -> None:
        """Complete jobs. An unavailable server is logged, not raised.

        return_values: one JSON value per job; empty = null for each. units: their weight in the rate, default 1 each.
        """
        values = return_values or [None] * len(jobs)
        await self._finish(
            jobs,
            lambda: [self._client.build_complete_call(job, value) for job, value in zip(jobs, values, strict=True)],
            completed_units=len(jobs) if units is None else units,
        )

    async def fail(self, job: BullMQJob, why: str) -> None:
        """Fail a job permanently. BullMQ keeps it, with `why`, for 7 days. Raises as little as `complete`."""
        await self._finish([job], lambda: [self._client.build_fail_call(job, why)])

    async def retry(self, job: BullMQJob, *, after: float, why: str, data: object = None) -> None:
        """Delay a job for `after` seconds; this counts as an attempt. Raises as little as `complete`.

        data: replaces the job's data; None = unchanged.
        """
        fields = {"failedReason": why}
        if data is not None:
            fields["data"] = json.dumps(data, separators=(",", ":"))
        await self._finish(
            [job],
            lambda: [self._client.build_delay_call(job.id, job.token, max(0.0, after), fields, counts_as_attempt=True)],
        )

    async def requeue(self, jobs: Sequence[BullMQJob]) -> None:
        """Return unstarted jobs to the queue without counting an attempt. Raises as little as `complete`."""
        await self._finish(
            jobs,
            lambda: [self._client.build_delay_call(job.id, job.token, 0, {}, counts_as_attempt=False) for job in jobs],
        )

    async def stats(self) -> LaneStats:
        """Return counts in jobs and the rate in units. Raises BackendError."""
        return await self._client.stats()

    async def purge(self) -> None:
        """Delete completed jobs older than 24 hours and failed jobs older than 7 days. Raises BackendError."""
        await self._client.clean()

    async def stop(self) -> None:
        """Stop fetching and requeue prefetched jobs. Jobs that `receive` returned can still be finished."""
        self._stop_requested.set()
        if self._marker_wait is not None:
            self._marker_wait.cancel()
        async with self._fetch_lock:
            unstarted, self._prefetched = self._prefetched, []
        if unstarted:
            await self.requeue(unstarted)
        if self._lock_renewer is not None:
            # the cancelled wait may have consumed a wake-up: pass it on, or others would wait for `BLOCK_TIMEOUT`
            with contextlib.suppress(BackendError):
                await self._client.add_marker()

    async def aclose(self) -> None:
        """Stop renewing locks. Call this after `stop`, when the last job is finished."""
        if self._lock_renewer is not None:
            self._lock_renewer.cancel()
            await asyncio.wait([self._lock_renewer])

    async def _fetch(self, limit: int) -> FetchHint:
        """Fetch into `_prefetched`. If the caller is cancelled, its jobs go to the next caller."""
        fetching = asyncio.ensure_future(self._fetch_jobs(limit))
        try:
            return await asyncio.shield(fetching)
        except asyncio.CancelledError:
            await asyncio.wait([fetching])
            if not fetching.cancelled() and isinstance(fetching.exception(), BackendError):
                self._has_unconfirmed_fetch = True
            raise

    async def _fetch_jobs(self, limit: int) -> FetchHint:
        if self._has_unconfirmed_fetch:
            await self._requeue_unconfirmed()
        self._fetch_count += 1
        jobs: list[BullMQJob] = []
        try:
            return await self._client.move_to_active(f"{self._consumer_id}:{self._fetch_count}", limit, jobs)
        except BackendError:
            self._has_unconfirmed_fetch = True
            if not jobs:
                raise
            return FetchHint()
        finally:
            self._held_jobs.update({(job.id, job.token): job for job in jobs})
            self._prefetched += jobs

    async def _wait_for_work(self, hint: FetchHint) -> None:
        """Wait for the end of the limiter's pause (decision 8, 2), for a delayed job, or for a wake-up signal."""
        if self._stop_requested.is_set():
            return
        if hint.rate_limited_for:
            await self._sleep_unless_stopped(hint.rate_limited_for)
            return
        # shorter during an outage: the end of the wait shows whether the server has recovered
        timeout = BLOCK_TIMEOUT if self._health is None or self._health.is_available else RECONNECT_DELAY
        if hint.next_due_at is not None:
            # not rounded up, which would delay short retries (decision 8, 12)
            timeout = min(timeout, max(hint.next_due_at - time.time(), 0.001))
        self._marker_wait = waiting = asyncio.ensure_future(self._client.wait_for_marker(timeout))
        try:
            await asyncio.wait([waiting])
        finally:
            self._marker_wait = None
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting])
        if not waiting.cancelled():
            waiting.result()

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_requested.wait()

    async def _finish(
        self, jobs: Sequence[BullMQJob], build_calls: Callable[[], Sequence[ScriptCall]], *, completed_units: int = 0
    ) -> None:
        if not jobs and not completed_units:
            return
        try:
            refused = await self._client.run(build_calls(), completed_units=completed_units)
        except BackendError as error:
            log.warning("jobs_not_settled", queue=self.name, jobs=len(jobs), error=error.message)
            return
        except Exception:  # a job that cannot be encoded must not end the loop that fetched it
            log.exception("jobs_not_settled", queue=self.name, jobs=[job.id for job in jobs])
            return
        finally:
            # only now: the next fetch would requeue an active job that is not held, as one of a lost response
            for job in jobs:
                self._held_jobs.pop((job.id, job.token), None)
        if refused:
            # The lock expired or the server lost the job: another worker has it, or the reconciler re-enqueues it.
            log.info("job_lock_lost", queue=self.name, jobs=len(refused), first=refused[0])

    async def _renew_locks(self) -> None:
        """Renew the locks of held jobs and requeue stalled jobs, until cancelled. No error ends this loop."""
        while True:
            pause = self._renew_interval
            try:
                if self._held_jobs:
                    for job_id, token in await self._extend_locks():
                        self._held_jobs.pop((job_id, token), None)
                await self._client.move_stalled_to_wait(self._max_stalls, self._renew_interval)
            except BackendError:
                pause = min(pause, RECONNECT_DELAY)
            except Exception:  # whatever it is: without renewal, locks expire and jobs are processed twice
                log.exception("lock_renewal_failed", queue=self.name)
            await asyncio.sleep(pause)

    async def _extend_locks(self) -> list[tuple[str, str]]:
        held_keys = list(self._held_jobs)
        lost_ids = await self._client.extend_locks(held_keys)
        return [key for key in held_keys if key[0] in lost_ids]

    async def _requeue_unconfirmed(self) -> None:
        """Requeue jobs that a fetch locked for this process although its response was lost."""
        active = await self._client.list_active_by_token(f"{self._consumer_id}:")
        unconfirmed = [key for key in active if key not in self._held_jobs]
        if unconfirmed:
            await self._client.run(
                [self._client.build_delay_call(*key, 0, {}, counts_as_attempt=False) for key in unconfirmed]
            )
        self._has_unconfirmed_fetch = False
