"""The send limiter: a priority semaphore over the sends in flight, with a share per destination."""

import asyncio
import heapq
from collections import Counter
from contextlib import AbstractContextManager

from tidings.flow.deliver.start_throttle import StartThrottle
from tidings.model.priority import LANES, Lane
from tidings.ports.channel import Destination

#: share of the slots that is reserved for urgent messages, so that a slow push host cannot block them
RESERVED_FOR_URGENT = 0.1
_RANKS = {lane: rank for rank, lane in enumerate(LANES)}


class _WaitQueue:
    """Waiters for one destination, a heap of (rank, sequence number, future). The future's result is `acquire`'s."""

    def __init__(self, destination: Destination | None) -> None:
        self.destination = destination
        self.waiters: list[tuple[int, int, asyncio.Future[bool]]] = []

    def peek(self) -> tuple[int, int] | None:
        """Return rank and sequence number of the next waiter. Cancelled waiters are removed."""
        while self.waiters and self.waiters[0][2].done():
            heapq.heappop(self.waiters)
        return self.waiters[0][:2] if self.waiters else None


class SendLimiter:
    """A bounded number of slots, granted by lane and then first come, first served. Not thread-safe: one event loop.

    No destination gets more than its share of the slots, and waiters for one destination do not block others. When a
    destination closes, the slots of its hanging sends are lent to others, so up to twice as many sends may be in flight
    for a while.
    """

    def __init__(self, slots: int) -> None:
        self._free_slots = slots
        self._reserved_slots = max(1, int(slots * RESERVED_FOR_URGENT)) if slots > 1 else 0
        self._queues: dict[str, _WaitQueue] = {}
        self._in_use: Counter[str] = Counter()
        #: slots per destination that are lent to others while their sends hang
        self._lent: Counter[str] = Counter()
        self._sequence = 0
        self._start_throttle = StartThrottle(self._admit_waiters)
        self.slots = slots

    @property
    def in_flight(self) -> int:
        return self.slots - self._free_slots + self._lent.total()

    def is_full(self, destination: Destination) -> bool:
        """Return whether a destination's share for messages that are not urgent is in use."""
        return self._in_use[destination.name] >= destination.share(self.slots)

    async def acquire(self, lane: Lane, destination: Destination | None = None) -> bool:
        """Acquire a slot, waiting if necessary. Returns False if the waiter was rejected (`reject_waiters`).

        A caller that got True must call `release`.
        """
        rank = _RANKS[lane]
        name = _destination_key(destination)
        queue = self._queues.get(name)
        if queue is None and self._can_start(rank, destination):
            self._grant_slot(rank, name)
            return True
        if queue is None:
            queue = self._queues[name] = _WaitQueue(destination)
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(queue.waiters, (rank, self._sequence, granted))
        # this waiter may be admitted at once, if only less urgent ones wait for the destination
        self._admit_waiters()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.result():
                # the slot was granted just before the cancellation
                self.release(destination)
            raise

    def release(self, destination: Destination | None = None) -> None:
        """Release a slot."""
        name = _destination_key(destination)
        if self._lent[name]:
            self._lent -= Counter({name: 1})
        else:
            self._free_slots += 1
        self._in_use[name] -= 1
        if not self._in_use[name]:
            del self._in_use[name]
        self._admit_waiters()

    def urgent_work(self) -> AbstractContextManager[None]:
        """Return a context in which sends that are not urgent start one by one (`StartThrottle.urgent_work`)."""
        return self._start_throttle.urgent_work()

    def reject_waiters(self, destination: Destination) -> None:
        """Reject all waiters for this destination: their `acquire` returns False."""
        if (queue := self._queues.pop(destination.name, None)) is not None:
            for _, _, granted in queue.waiters:
                if not granted.done():
                    granted.set_result(False)

    def lend_hung_slots(self, destination: Destination) -> None:
        """Lend the slots of a destination's hanging sends to others until the sends end. At most `slots` in total."""
        name = destination.name
        held = self._in_use[name] - self._lent[name]
        if 0 < held <= self.slots - self._lent.total():
            self._lent[name] += held
            self._free_slots += held
            self._admit_waiters()

    def _grant_slot(self, rank: int, name: str) -> None:
        self._free_slots -= 1
        self._in_use[name] += 1
        self._start_throttle.record_start(urgent=rank == 0)

    def _admit_waiters(self) -> None:
        # if not even an urgent message may start in this pass of the event loop, no queue is looked at
        while self._queues and self._free_slots and self._start_throttle.can_start(urgent=True):
            name, queue = self._next_queue()
            if queue is None:
                return
            rank, _, granted = heapq.heappop(queue.waiters)
            self._grant_slot(rank, name)
            granted.set_result(True)
            if queue.peek() is None:
                del self._queues[name]

    def _next_queue(self) -> tuple[str, _WaitQueue | None]:
        """Return the queue with the first waiter that can start, and its name."""
        next_queue: tuple[str, _WaitQueue | None] = ("", None)
        best: tuple[int, int] | None = None
        for name, queue in list(self._queues.items()):
            first = queue.peek()
            if first is None:
                del self._queues[name]
            elif (best is None or first < best) and self._can_start(first[0], queue.destination):
                best, next_queue = first, (name, queue)
        return next_queue

    def _can_start(self, rank: int, destination: Destination | None) -> bool:
        extra = self._reserved_slots if rank == 0 else 0
        if self._free_slots <= self._reserved_slots - extra or not self._start_throttle.can_start(urgent=rank == 0):
            return False
        if destination is None:
            return True
        return self._in_use[destination.name] < destination.share(self.slots) + extra


def _destination_key(destination: Destination | None) -> str:
    # a destination never has an empty name
    return "" if destination is None else destination.name
