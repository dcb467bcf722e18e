"""Put a worker together from a runtime, start it, drain it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.send import Sender
from tidings.flow.record.recorder import Recorder
from tidings.insight import counters
from tidings.runtime import Runtime
from tidings.worker.heartbeat import beating
from tidings.worker.worker import Worker


@asynccontextmanager
async def working(runtime: Runtime) -> AsyncIterator[Worker]:
    """Open the channels and run the worker's loops for the time of the block; drain at its end."""
    settings = runtime.settings
    recorder = Recorder(runtime.pipeline.record, max_rows=settings.flush_rows, max_delay=settings.flush_ms / 1000)
    gate = Gate(settings.worker_concurrency)
    sender = Sender(runtime.channels, runtime.renderings, gate, runtime.clock, recorder.add, recorder.hurry)
    worker = Worker(runtime, sender, recorder, gate)
    counters.reads(counters.IN_FLIGHT, lambda: gate.in_flight)
    counters.reads(counters.UNWRITTEN, lambda: recorder.waiting)
    for pack in runtime.packs:
        if pack.warm_up is not None:
            pack.warm_up()
    async with AsyncExitStack() as stack:
        for channel in runtime.channels.values():
            stack.push_async_callback(channel.close)
            await channel.open()
        await stack.enter_async_context(beating(runtime.store, runtime.clock, runtime.role.value, worker.detail))
        stack.push_async_callback(worker.stop, settings.drain_seconds)
        await worker.start()
        yield worker
