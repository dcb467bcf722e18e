"""The intake: accepts the jobs of other services and reports the result of each as its return value or failure.

| job | handling |
|---|---|
| for one user | accepted in one transaction with the other jobs of the same fetch |
| batch | accepted a part at a time; the return value lists the users who could not be notified |
| invalid | fails at once, with the fields and the fixes |
| internal error | retried after 2, 4 and 8 seconds; while the database is unavailable, without limit |
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from tidings.backend_health import BackendHealth
from tidings.errors import BackendError, Conflict, TidingsError, ValidationFailed
from tidings.flow.accept.external_jobs import AcceptedPart, ExternalJobAcceptor, JobPart
from tidings.micro_batcher import BatchingPool
from tidings.model.request import NotifyRequest
from tidings.model.user import ContactAddress
from tidings.ports.clock import Clock
from tidings.ports.store import Store
from tidings.schemas import job_parser, legacy_jobs
from tidings.schemas.job_request import FailedRecipient, JobRequest

if TYPE_CHECKING:
    from tidings.queues.bullmq_commands import BullMQJob
    from tidings.queues.bullmq_consumer import BullMQConsumer

log = structlog.get_logger(__name__)

#: seconds until the next attempt after an internal error, by number of failed attempts
RETRY_DELAYS = (2.0, 4.0, 8.0)
#: a delay grows by up to this fraction, so that jobs that failed together do not return together
RETRY_JITTER = 0.25
#: seconds between probes of an unavailable database; no job is fetched meanwhile
DATABASE_PROBE_EVERY = 1.0
NO_SUCH_USER = "no such user; PUT /api/users/ID first"


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """How many jobs a worker processes concurrently."""

    #: jobs for one user per transaction
    single_jobs: int
    #: concurrent batch jobs
    batch_jobs: int
    #: users of a batch job per transaction
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class _ParsedJob:
    """A valid job."""

    job: "BullMQJob"
    request: JobRequest


class JobIntake:
    """Processes the jobs of the intake queue until it is stopped."""

    def __init__(
        self,
        consumer: "BullMQConsumer",
        acceptor: ExternalJobAcceptor,
        store: Store,
        clock: Clock,
        limits: IntakeLimits,
        jitter: Callable[[], float],
        channels: Collection[str],
        database_health: BackendHealth,
    ) -> None:
        """Create the intake.

        jitter: returns a random number, 0 ≤ n < 1. channels: names of the configured channels.
        database_health: receives each failure of the database.
        """
        self._consumer = consumer
        self._acceptor = acceptor
        self._store = store
        self._clock = clock
        self._limits = limits
        self._jitter = jitter
        self._channels = channels
        self._closing = asyncio.Event()
        self._database_health = database_health
        #: from a database failure until a job is accepted again
        self._is_paused = False

    async def run(self) -> None:
        """Fetch and process jobs until `stop`; return when the jobs in progress have ended."""
        max_singles, max_batches = self._limits.single_jobs, self._limits.batch_jobs
        async with asyncio.TaskGroup() as group:
            singles = BatchingPool(self._process_singles, workers=1, max_batch=max_singles, start=group.create_task)
            # batches may wait in memory, so that they do not block the jobs behind them
            batches = BatchingPool(
                self._process_batch,
                workers=max_batches,
                max_batch=1,
                max_waiting=max_batches,
                start=group.create_task,
            )
            while jobs := await self._receive():
                parsed_jobs = [parsed for job in jobs if (parsed := await self._parse(job)) is not None]
                await singles.submit([parsed for parsed in parsed_jobs if not parsed.request.is_batch])
                for parsed in parsed_jobs:
                    if parsed.request.is_batch:
                        await batches.submit([parsed])
            if unstarted := [*singles.take_back(), *batches.take_back()]:
                await self._consumer.requeue([parsed.job for parsed in unstarted])

    async def purge(self) -> None:
        """Delete finished jobs past their retention. Raises BackendError."""
        await self._consumer.purge()

    async def stop(self) -> None:
        """Stop fetching. Batches stop after their current transaction and return to the queue."""
        self._closing.set()
        await self._consumer.stop()

    async def _receive(self) -> "Sequence[BullMQJob]":
        is_available = not self._is_paused
        while not (is_available or self._closing.is_set()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATABASE_PROBE_EVERY):
                    await self._closing.wait()
            with contextlib.suppress(BackendError):
                await self._store.ping()
                is_available = True
        # the database may still refuse writes: fetch a single job as a probe
        return await self._consumer.receive(1 if self._is_paused else self._limits.single_jobs)

    async def _parse(self, job: "BullMQJob") -> _ParsedJob | None:
        """Return the parsed job; fail an invalid one and return None."""
        try:
            if job.invalid_reason is not None:
                raise ValidationFailed.for_field("data", job.invalid_reason, code="broken_job")
            legacy_jobs.check_channel(job.name, self._channels)
            return _ParsedJob(job, job_parser.parse_job(job.name, job.data, priority=job.priority))
        except ValidationFailed as error:
            await self._fail_invalid(job, error)
        except Exception as error:  # noqa: BLE001  # a bug must fail one job, not end the loop
            await self._retry_after_error([job], error)
        return None

    async def _process_singles(self, parsed_jobs: Sequence[_ParsedJob]) -> None:
        """Accept jobs for one user each, in one transaction."""
        try:
            results = await self._accept(
                [self._build_part(parsed, parsed.request.recipients, "one") for parsed in parsed_jobs]
            )
        except Exception as error:  # noqa: BLE001  # as above
            if len(parsed_jobs) > 1 and not isinstance(error, BackendError):
                # one job may have caused the error: process each alone
                for parsed in parsed_jobs:
                    await self._process_singles([parsed])
                return
            await self._retry_after_error([parsed.job for parsed in parsed_jobs], error)
            return
        completed: list[BullMQJob] = []
        return_values: list[object] = []
        for parsed, result in zip(parsed_jobs, results, strict=True):
            match result:
                case AcceptedPart():
                    completed.append(parsed.job)
                    return_values.append({"id": result.id, "accepted": result.users, "failed": []})
                case ValidationFailed():
                    await self._fail_invalid(parsed.job, parsed.request.with_caller_field_names(result))
                case Conflict():
                    await self._retry(parsed.job, result)
        if completed:
            await self._consumer.complete(completed, return_values=return_values)

    async def _process_batch(self, parsed_jobs: Sequence[_ParsedJob]) -> None:
        """Accept one batch job."""
        [parsed] = parsed_jobs
        try:
            result = await self._accept_batch(parsed)
        except Exception as error:  # noqa: BLE001  # as above
            await self._retry_after_error([parsed.job], error)
            return
        match result:
            case None:
                await self._consumer.requeue([parsed.job])
            case ValidationFailed():
                await self._fail_invalid(parsed.job, result)
            case _:
                await self._consumer.complete([parsed.job], return_values=[result])

    async def _accept_batch(self, parsed: _ParsedJob) -> "dict[str, object] | ValidationFailed | None":
        """Accept a batch job part by part. Return the job's return value, or None if the worker stops before its end.

        When the job is handed out again, the idempotency keys of the accepted parts return their stored results. Each
        result has the size of its part, so that workers with another batch size divide the users in the same places.
        """
        recipients = parsed.request.recipients
        assert isinstance(recipients, tuple), "a batch names its users"
        ids: list[str] = []
        accepted, start = 0, 0
        failed_recipients = list(parsed.request.failed_recipients)
        while start < len(recipients):
            if self._closing.is_set():
                return None
            part = self._build_part(parsed, recipients[start : start + self._limits.batch_size], str(start))
            [result] = await self._accept([part])
            if isinstance(result, Conflict):
                raise result
            if isinstance(result, ValidationFailed):
                # the remaining parts have the same options and would be rejected as well
                error = parsed.request.with_caller_field_names(result)
                if not ids:
                    return error
                failed_recipients += [FailedRecipient(user_id, error.message) for user_id in recipients[start:]]
                break
            ids += [result.id] if result.id is not None else []
            accepted += result.users
            failed_recipients += [FailedRecipient(user_id, NO_SUCH_USER) for user_id in result.unknown]
            start += result.taken
        if not recipients:
            first = failed_recipients[0]
            return ValidationFailed.for_field("userIds", f"contains no valid user id: {first.user_id!r} {first.reason}")
        failed = [{"userId": recipient.user_id, "reason": recipient.reason} for recipient in failed_recipients]
        return {"ids": ids, "accepted": accepted, "failed": failed}

    def _build_part(self, parsed: _ParsedJob, recipients: tuple[str, ...] | ContactAddress, name: str) -> JobPart:
        job, request = parsed.job, parsed.request

        def build_request(user_ids: Sequence[str]) -> NotifyRequest:
            return request.to_notify_request(user_ids, self._clock.now(), source=f"job:{job.name}:{job.id}")

        # with the time of addition: BullMQ's counted ids start again at 1 after a queue reset
        added_ms = round(job.added_at.timestamp() * 1000)
        digest = hashlib.sha256(f"{job.id}\n{added_ms}".encode()).hexdigest()
        return JobPart(
            caller=f"queue:{self._consumer.name}",
            key=f"{digest}:{name}",
            recipients=recipients,
            build_request=build_request,
            can_be_empty=request.is_batch,
        )

    async def _retry_after_error(self, jobs: "Sequence[BullMQJob]", error: Exception) -> None:
        """Retry jobs after an error that they did not cause."""
        if isinstance(error, ValidationFailed):
            # the database cannot store one of their values
            for job in jobs:
                await self._fail_invalid(job, error)
            return
        if isinstance(error, BackendError):
            self._database_health.record_own_failure(error)
            self._pause()
        elif not isinstance(error, TidingsError):
            log.error("job_failed", queue=self._consumer.name, jobs=[job.id for job in jobs], exc_info=error)
        for job in jobs:
            await self._retry(job, error)

    async def _accept(self, parts: Sequence[JobPart]) -> "Sequence[AcceptedPart | ValidationFailed | Conflict]":
        results = await self._acceptor.accept(parts)
        if any(isinstance(result, AcceptedPart) for result in results):
            self._resume()
        return results

    def _pause(self) -> None:
        if not self._is_paused:
            log.info("intake_paused", queue=self._consumer.name)
        self._is_paused = True

    def _resume(self) -> None:
        if self._is_paused:
            log.info("intake_resumed", queue=self._consumer.name)
        self._is_paused = False

    async def _retry(self, job: "BullMQJob", error: Exception) -> None:
        why = error.message if isinstance(error, TidingsError) else f"internal error: {type(error).__name__}"
        attempts_made = job.attempts_made
        # without limit while the database is unavailable: that will end, whereas a bug persists
        if attempts_made >= len(RETRY_DELAYS) and not isinstance(error, BackendError | Conflict):
            await self._consumer.fail(job, f"gave up after {attempts_made + 1} attempts: {why}")
            return
        delay = RETRY_DELAYS[min(attempts_made, len(RETRY_DELAYS) - 1)]
        await self._consumer.retry(job, after=delay * (1 + RETRY_JITTER * self._jitter()), why=why)

    async def _fail_invalid(self, job: "BullMQJob", error: ValidationFailed) -> None:
        # the message may contain personal data: only the job keeps it, the log names the fields
        fields = [field_error.field for field_error in error.field_errors]
        log.warning("job_refused", queue=self._consumer.name, job=job.id, code=error.code, fields=fields)
        await self._consumer.fail(job, error.message)
