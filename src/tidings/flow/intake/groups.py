"""Calls that share a transaction: each at once while it is quiet, together under load (group commit).

A call that finds a free place runs in the next turn of the event loop. While all places are taken, calls wait, and
those that waited run together: nobody is delayed on purpose, and the busier it is, the less each one costs.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from tidings.errors import BackendError, TidingsError

log = structlog.get_logger(__name__)

CallT = TypeVar("CallT")
ResultT = TypeVar("ResultT")

#: calls that run together at most (in units of their size): short enough that urgent work does not wait behind them
MOST = 200


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[CallT, ResultT]):
    call: CallT
    result: asyncio.Future[ResultT]


class Groups(Generic[CallT, ResultT]):
    """Runs calls in groups. Each caller gets its own result or error, as if it had been alone."""

    def __init__(
        self,
        work: Callable[[Sequence[CallT]], Awaitable[Sequence[ResultT | TidingsError]]],
        *,
        running: int,
        most: int = MOST,
        size: Callable[[CallT], int] = lambda _call: 1,
        apart: Callable[[CallT], Hashable | None] = lambda _call: None,
    ) -> None:
        """Take what runs a group, in one transaction: it returns a result or an error for each call, in order.

        When the work raises, nothing of it may have happened. Arguments: running — groups at the same time; most —
        size of a group, unless a single call is larger; size — of one call; apart — calls with the same value never
        run at the same time (None: with anybody).
        """
        self._work = work
        self._places = running
        self._most = most
        self._size = size
        self._apart = apart
        self._waiting: deque[_Waiting[CallT, ResultT]] = deque()
        #: what `apart` says of the calls that run now
        self._held: set[Hashable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked = False

    async def __call__(self, call: CallT) -> ResultT:
        """Run a call, maybe together with others, and return its result.

        Raises what the work returned or raised for it. A caller that is cancelled is not waited for: what has begun
        goes on, what has not is left out.
        """
        waiting: _Waiting[CallT, ResultT] = _Waiting(call, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._ask()
        return await waiting.result

    def _ask(self) -> None:
        """Have groups started in the next turn: calls that came in this one share them."""
        if not self._asked and len(self._tasks) < self._places:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._asked = False
        while len(self._tasks) < self._places and (group := self._next()):
            task = asyncio.create_task(self._run(group), name="calls that share a transaction")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiting:
            self._ask()

    def _next(self) -> list[_Waiting[CallT, ResultT]]:
        """Take the next group off the queue, in order; who must be apart from a call that runs stays in its place."""
        group: list[_Waiting[CallT, ResultT]] = []
        passed: list[_Waiting[CallT, ResultT]] = []
        total = 0
        while self._waiting:
            one = self._waiting.popleft()
            if one.result.done():
                continue  # its caller went away
            value = self._apart(one.call)
            if value is not None and value in self._held:
                passed.append(one)
                continue
            total += self._size(one.call)
            if group and total > self._most:
                passed.append(one)
                break
            if value is not None:
                self._held.add(value)
            group.append(one)
        self._waiting.extendleft(reversed(passed))
        return group

    async def _run(self, group: Sequence[_Waiting[CallT, ResultT]]) -> None:
        try:
            await self._together(group)
        finally:
            for one in group:
                self._held.discard(self._apart(one.call))
                one.result.cancel()  # has no effect on a result; without one, the whole process is stopping

    async def _together(self, group: Sequence[_Waiting[CallT, ResultT]]) -> None:
        try:
            results = await self._work([one.call for one in group])
        except BackendError as error:
            # nothing is gained by trying each of them against a database that does not answer
            for one in group:
                _settle(one, error)
        except Exception as error:  # noqa: BLE001  # told to the callers, none of whom may suffer for another's
            if len(group) == 1:
                _settle(group[0], error)
                return
            log.warning("group_failed", calls=len(group), problem=f"{type(error).__name__}: {error}")
            for one in group:
                if not one.result.done():
                    await self._together([one])
        else:
            for one, result in zip(group, results, strict=True):
                _settle(one, result)


def _settle(waiting: _Waiting[CallT, ResultT], result: ResultT | Exception) -> None:
    if waiting.result.done():
        return  # its caller went away
    if isinstance(result, Exception):
        waiting.result.set_exception(result)
    else:
        waiting.result.set_result(result)
