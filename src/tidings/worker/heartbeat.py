"""Heartbeats: every process says every few seconds that it lives, and how it does."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from tidings.ending import cancelled, within
from tidings.errors import BackendError
from tidings.insight import counters
from tidings.model.ids import new_id
from tidings.ports.clock import Clock
from tidings.ports.operations import Process
from tidings.ports.store import Store
from tidings.worker.outage import Outage

log = structlog.get_logger(__name__)

#: seconds between two signs of life; whoever is not seen for 30 does not live
BEAT_EVERY = 5.0
#: seconds that the last word may take
LEAVES_WITHIN = 2.0


@asynccontextmanager
async def beating(
    store: Store, clock: Clock, kind: str, detail: Callable[[], Mapping[str, object]]
) -> AsyncIterator[Process]:
    """Say for the length of the block that this process lives, and at its end that it left in order.

    kind: `serve`, `api` or `worker`; detail: called at each beat for the figures to show.
    """
    now = clock.now()
    me = Process(new_id(now), kind, socket.gethostname(), os.getpid(), started_at=now, seen_at=now)
    beats = asyncio.create_task(_beat(store, clock, me, detail), name="heartbeat")
    try:
        yield me
    finally:
        try:
            # a last beat that hangs says enough of the database
            if await cancelled([beats]):
                await within(LEAVES_WITHIN, _leave(store, me))
        except (BackendError, TimeoutError):
            # after 30 seconds nobody counts it any more anyway
            log.debug("left_unsaid", process=me.id)


async def _beat(store: Store, clock: Clock, me: Process, detail: Callable[[], Mapping[str, object]]) -> None:
    outage = Outage("heartbeat")
    while True:
        with outage.watched():
            counters.refresh()
            async with store.begin() as tx:
                await store.processes.beat(tx, replace(me, seen_at=clock.now(), detail=dict(detail())))
        await asyncio.sleep(BEAT_EVERY)


async def _leave(store: Store, me: Process) -> None:
    async with store.begin() as tx:
        await store.processes.leave(tx, me.id)
