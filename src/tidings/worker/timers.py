"""Timers: things done every so many seconds, one after the other in one loop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from tidings.worker.outage import Outage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Round:
    """Something that is done every so many seconds."""

    every: float
    work: Callable[[], Awaitable[object]]

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return str(getattr(self.work, "__name__", "work")).removeprefix("_")


async def go_round(rounds: Sequence[Round], *, pause: float) -> None:
    """Do each round when it is due, looking every `pause` seconds, until cancelled. What fails is tried again."""
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None, "runs in a task"
    due = [loop.time() + one.every for one in rounds]
    outages = [Outage(one.name) for one in rounds]
    while True:
        for index, one in enumerate(rounds):
            if loop.time() >= due[index]:
                await _guarded(one, outages[index])
                # a library that swallows the cancellation must not keep the process from ending
                if me.cancelling():
                    return
                due[index] = loop.time() + one.every
        await asyncio.sleep(pause)


async def _guarded(one: Round, outage: Outage) -> None:
    try:
        with outage.watched():
            await one.work()
    except Exception:  # the next time round it is tried again; a loop that ended would stop all sending
        log.exception("round_failed", work=one.name)
