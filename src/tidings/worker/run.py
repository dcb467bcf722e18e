"""Put a worker together from a runtime, start it, drain it."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.send import Sender
from tidings.flow.intake.outside import Parts
from tidings.flow.record.recorder import Recorder
from tidings.insight import counters
from tidings.runtime import Runtime
from tidings.worker.heartbeat import beating
from tidings.worker.intake import Capacity, Intake
from tidings.worker.worker import Worker


@asynccontextmanager
async def working(runtime: Runtime) -> AsyncIterator[Worker]:
    """Open the channels and run the worker's loops for the time of the block; drain at its end."""
    settings = runtime.settings
    recorder = Recorder(runtime.pipeline.record, max_rows=settings.flush_rows, max_delay=settings.flush_ms / 1000)
    gate = Gate(settings.worker_concurrency)
    sender = Sender(runtime.channels, runtime.renderings, gate, runtime.clock, recorder.add, recorder.hurry)
    counters.reads(counters.IN_FLIGHT, lambda: gate.in_flight)
    counters.reads(counters.UNWRITTEN, lambda: recorder.waiting)
    for pack in runtime.packs:
        if pack.warm_up is not None:
            pack.warm_up()
    async with AsyncExitStack() as stack:
        worker = Worker(runtime, sender, recorder, gate, await stack.enter_async_context(_intake(runtime)))
        for channel in runtime.channels.values():
            stack.push_async_callback(channel.close)
            await channel.open()
        await stack.enter_async_context(beating(runtime.store, runtime.clock, runtime.role.value, worker.detail))
        stack.push_async_callback(worker.stop, settings.drain_seconds)
        await worker.start()
        yield worker


@asynccontextmanager
async def _intake(runtime: Runtime) -> AsyncIterator[Intake | None]:
    """Give what takes the jobs of other services; None without a Redis that they could leave them in."""
    settings = runtime.settings
    if settings.redis is None:
        yield None
        return
    # what speaks to Redis takes its time to load, and most installations do not need it
    from tidings.queues.opened import opened_intake

    parts = Parts(runtime.store, runtime.clock, runtime.pipeline)
    capacity = Capacity(settings.single_jobs, settings.batch_jobs, settings.batch_job_size)
    async with opened_intake(settings.redis, settings.queue_prefix, jobs_per_second=settings.jobs_per_second) as source:
        yield Intake(source, parts, runtime.store, runtime.clock, capacity, random.random)
