"""Assembles a worker from a container, starts it and drains it."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tidings.container import AppContainer
from tidings.flow.accept.external_jobs import ExternalJobAcceptor
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.deliver.step_check import StepCheck
from tidings.flow.record.outcome_buffer import OutcomeBuffer
from tidings.observability import metrics
from tidings.observability.provider_status import describe_providers, list_providers
from tidings.worker.heartbeat import send_heartbeats
from tidings.worker.job_intake import IntakeLimits, JobIntake
from tidings.worker.worker import Worker


@asynccontextmanager
async def start_worker(container: AppContainer) -> AsyncIterator[Worker]:
    """Open the channels and run a worker for the duration of the block; drain it afterwards."""
    settings = container.settings
    outcome_buffer = OutcomeBuffer(
        container.pipeline.record, max_rows=settings.flush_rows, max_delay=settings.flush_ms / 1000
    )
    sender = DeliverySender(
        container.channels,
        container.render_cache,
        SendLimiter(settings.worker_concurrency),
        container.clock,
        outcome_buffer.add,
        outcome_buffer.flush_soon,
        schedule_defaults=container.pipeline.config.schedule_defaults,
        update_step=StepCheck(container.store, container.clock).update,
        pack_rules=container.catalog.rules,
    )
    metrics.register_gauge(metrics.SENDS_IN_FLIGHT, lambda: sender.in_flight)
    metrics.register_gauge(metrics.UNWRITTEN_OUTCOMES, lambda: outcome_buffer.pending_count)
    for pack in container.packs:
        if pack.warm_up is not None:
            pack.warm_up()
    async with AsyncExitStack() as stack:
        worker = Worker(container, sender, outcome_buffer, await stack.enter_async_context(_open_intake(container)))
        for channel in container.channels.values():
            stack.push_async_callback(channel.close)
            await channel.open()
        await stack.enter_async_context(
            send_heartbeats(
                container.store,
                container.clock,
                container.role.value,
                lambda: {**worker.detail(), **describe_providers(list_providers(container.channels))},
                container.database_health,
                container.alerts,
            )
        )
        stack.push_async_callback(worker.stop, settings.drain_seconds)
        await worker.start()
        yield worker


@asynccontextmanager
async def _open_intake(container: AppContainer) -> AsyncIterator[JobIntake | None]:
    """Yield the intake for jobs of other services; None without Redis."""
    settings = container.settings
    if settings.redis is None:
        yield None
        return
    # imported here: the Redis client is slow to load, and most installations do not need it
    from tidings.queues.factory import open_intake_consumer

    async with open_intake_consumer(
        settings.redis, settings.queue_prefix, jobs_per_second=settings.jobs_per_second
    ) as consumer:
        yield JobIntake(
            consumer,
            ExternalJobAcceptor(container.store, container.clock, container.pipeline),
            container.store,
            container.clock,
            IntakeLimits(settings.single_jobs, settings.batch_jobs, settings.batch_job_size),
            random.random,
            container.channels.keys(),
            container.database_health,
        )
