"""Micro-batching: items that arrive while all workers of a pool are busy are processed together.

An item that finds a free worker starts in the next pass of the event loop. There is no artificial delay, and the cost
per item falls with the load. `BatchingPool` processes items; `MicroBatcher` returns a result to each caller (group
commit).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from tidings.errors import BackendError, TidingsError

log = structlog.get_logger(__name__)

ItemT = TypeVar("ItemT")
CallT = TypeVar("CallT")
ResultT = TypeVar("ResultT")

#: total size of a batch; small enough that urgent work does not wait long behind it
MAX_BATCH_SIZE = 200


class BatchingPool(Generic[ItemT]):
    """A bounded pool of coroutines that processes queued items in batches, in order."""

    def __init__(
        self,
        work: Callable[[Sequence[ItemT]], Awaitable[None]],
        *,
        workers: int,
        max_batch: int,
        max_waiting: int = 0,
        size: Callable[[ItemT], int] | None = None,
        exclusive_key: Callable[[ItemT], Hashable | None] | None = None,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task,
    ) -> None:
        """Create a pool without running workers.

        work: processes a batch; must not raise.
        workers: most concurrent batches.
        max_batch: most total size of a batch; a single larger item is a batch of its own.
        max_waiting: queued items above which `submit` waits.
        size: returns the size of an item; default 1.
        exclusive_key: items with equal keys are never processed at the same time; None excludes nothing.
        start: starts the task of a worker.
        """
        self._work = work
        self._max_workers = workers
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._size = size
        self._exclusive_key = exclusive_key
        self._start = start
        self._waiting: deque[ItemT] = deque()
        #: exclusive keys of the items in progress
        self._held: set[Hashable] = set()
        self._workers: set[asyncio.Task[None]] = set()
        #: whether a worker was started and has not taken its first batch
        self._is_starting = False
        self._space = asyncio.Event()

    def add(self, items: Iterable[ItemT]) -> None:
        """Queue items regardless of `max_waiting`."""
        self._waiting.extend(items)
        if self._waiting:
            self._ensure_worker()

    async def submit(self, items: Iterable[ItemT]) -> None:
        """Queue items; return once at most `max_waiting` are queued."""
        self.add(items)
        while len(self._waiting) > self._max_waiting:
            self._space.clear()
            await self._space.wait()

    def take_back(self) -> list[ItemT]:
        """Remove and return the queued items."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._space.set()
        return waiting

    async def join(self) -> None:
        """Return once no item is queued or in progress."""
        while self._workers:
            await asyncio.wait(self._workers)

    def _ensure_worker(self) -> None:
        if not self._is_starting and len(self._workers) < self._max_workers:
            self._is_starting = True
            self._workers.add(self._start(self._run()))

    async def _run(self) -> None:
        self._is_starting = False
        worker = asyncio.current_task()
        assert worker is not None, "runs in a task"
        try:
            while batch := self._next_batch():
                self._space.set()
                if self._waiting:
                    # for another worker, if the pool allows one
                    self._ensure_worker()
                try:
                    await self._work(batch)
                finally:
                    if self._exclusive_key is not None:
                        self._held.difference_update(map(self._exclusive_key, batch))
        finally:
            # now, not in a done callback: an item added in between would find no free worker
            self._workers.discard(worker)

    def _next_batch(self) -> list[ItemT]:
        """Remove and return the next batch. Items excluded by a batch in progress keep their place in the queue."""
        waiting = self._waiting
        if self._size is None and self._exclusive_key is None:
            return [waiting.popleft() for _ in range(min(self._max_batch, len(waiting)))]
        batch: list[ItemT] = []
        skipped: list[ItemT] = []
        total = 0
        while waiting:
            item = waiting.popleft()
            key = None if self._exclusive_key is None else self._exclusive_key(item)
            if key is not None and key in self._held:
                skipped.append(item)
                continue
            total += 1 if self._size is None else self._size(item)
            if batch and total > self._max_batch:
                skipped.append(item)
                break
            if key is not None:
                self._held.add(key)
            batch.append(item)
        waiting.extendleft(reversed(skipped))
        return batch


@dataclass(frozen=True, slots=True, eq=False)
class _PendingCall(Generic[CallT, ResultT]):
    call: CallT
    result: asyncio.Future[ResultT]


class MicroBatcher(Generic[CallT, ResultT]):
    """Runs calls in batches. Each caller receives its own result or error, as if its call had run alone."""

    def __init__(
        self,
        work: Callable[[Sequence[CallT]], Awaitable[Sequence[ResultT | TidingsError]]],
        *,
        workers: int,
        max_batch: int = MAX_BATCH_SIZE,
        size: Callable[[CallT], int] | None = None,
        exclusive_key: Callable[[CallT], Hashable | None] | None = None,
    ) -> None:
        """Create a batcher.

        work: runs a batch in one transaction and returns a result or an error for each call, in order. If it raises, it
        must have had no effect. The other arguments are those of `BatchingPool`.
        """
        self._work = work
        self._pool: BatchingPool[_PendingCall[CallT, ResultT]] = BatchingPool(
            self._run,
            workers=workers,
            max_batch=max_batch,
            size=None if size is None else lambda pending: size(pending.call),
            exclusive_key=None if exclusive_key is None else lambda pending: exclusive_key(pending.call),
        )

    async def __call__(self, call: CallT) -> ResultT:
        """Run a call, possibly together with others, and return its result.

        Raises the error that `work` returned or raised for it. If the caller is cancelled, a call that has started
        continues and one that is still queued is dropped.
        """
        pending: _PendingCall[CallT, ResultT] = _PendingCall(call, asyncio.get_running_loop().create_future())
        self._pool.add((pending,))
        return await pending.result

    async def _run(self, batch: Sequence[_PendingCall[CallT, ResultT]]) -> None:
        try:
            if open_calls := [pending for pending in batch if not pending.result.done()]:
                await self._run_batch(open_calls)
        finally:
            for pending in batch:
                # without effect on a call with a result; a call without one was interrupted by the shutdown
                pending.result.cancel()

    async def _run_batch(self, batch: Sequence[_PendingCall[CallT, ResultT]]) -> None:
        try:
            results = await self._work([pending.call for pending in batch])
        except BackendError as error:
            # not repeated one by one: the database is unavailable
            for pending in batch:
                _resolve(pending, error)
        except Exception as error:  # noqa: BLE001  # raised to the caller whose call causes it, and to no other
            if len(batch) == 1:
                _resolve(batch[0], error)
                return
            log.warning("group_commit_failed", calls=len(batch), error=f"{type(error).__name__}: {error}")
            for pending in batch:
                if not pending.result.done():
                    await self._run_batch([pending])
        else:
            for pending, result in zip(batch, results, strict=True):
                _resolve(pending, result)


def _resolve(pending: _PendingCall[CallT, ResultT], result: ResultT | Exception) -> None:
    if pending.result.done():
        return  # the caller was cancelled
    if isinstance(result, Exception):
        pending.result.set_exception(result)
    else:
        pending.result.set_result(result)
