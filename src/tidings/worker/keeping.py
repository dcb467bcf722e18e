"""What a process that only accepts has to keep up with: its outbox rows, new keys, its heartbeat."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from tidings.ending import cancelled, within
from tidings.errors import BackendError
from tidings.runtime import Runtime
from tidings.worker.heartbeat import beating
from tidings.worker.rounds import EPOCH_EVERY, KEYS_EVERY, SETTLE_EVERY
from tidings.worker.timers import Round, go_round

log = structlog.get_logger(__name__)

#: seconds that the last removal from the outbox may take; what stays is told to the queue twice, which is harmless
SETTLES_WITHIN = 2.0


@asynccontextmanager
async def keeping(runtime: Runtime) -> AsyncIterator[None]:
    """Keep up for the length of the block."""
    rounds = [
        Round(SETTLE_EVERY, runtime.pipeline.settle_outbox),
        Round(KEYS_EVERY, runtime.reload_keys),
        # a queue that went or came back is in the log, also when nobody asks
        Round(EPOCH_EVERY, runtime.queue.ping),
    ]
    async with beating(runtime.store, runtime.clock, runtime.role.value, dict):
        going = asyncio.create_task(go_round(rounds, pause=1.0), name="keeping")
        try:
            yield
        finally:
            await cancelled([going])
            try:
                await within(SETTLES_WITHIN, runtime.pipeline.settle_outbox())
            except (BackendError, TimeoutError):
                log.debug("outbox_unsettled")
