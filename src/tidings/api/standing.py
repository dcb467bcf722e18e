"""The standing that /metrics shows: asked at most every few seconds, however many ask."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import structlog

from tidings.api.served import Served
from tidings.errors import BackendError
from tidings.insight.gauges import Standing
from tidings.insight.standing import dead_letters, queue_standing, running
from tidings.ports.queue import Queue

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
#: seconds that an answer is good for: who polls /metrics does not poll the database
GOOD_FOR = 5.0


class Standings:
    """Remembers the last answer."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._last = Standing()
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()

    async def latest(self) -> Standing:
        """Return how the system stands now, or stood within `GOOD_FOR` seconds."""
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._asked_at is None or now - self._asked_at > GOOD_FOR:
                self._last, self._asked_at = await self._ask(), now
        return self._last

    async def _ask(self) -> Standing:
        store, clock, lanes = self._served.store, self._served.clock, self._served.queue
        queue_up, queue, processes, letters = await asyncio.gather(
            _known(_answers(lanes)),
            _known(queue_standing(store, lanes, clock)),
            _known(running(store, clock)),
            _known(dead_letters(store)),
        )
        # one that answers a ping may still refuse to say how its lanes stand
        queue_up = queue_up and (queue is None or queue.away is None)
        return Standing(queue, processes, letters, queue_up=bool(queue_up))


async def _answers(queue: Queue) -> bool:
    await queue.ping()
    return True


async def _known(question: Awaitable[_T]) -> _T | None:
    """Return the answer, None = there is none: a question that takes too long says nothing about the others."""
    try:
        return await question
    except BackendError as error:
        log.debug("standing_unknown", problem=error.message)
        return None
