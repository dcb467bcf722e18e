"""How many sends are in flight, and who goes first when a place becomes free."""

import asyncio
import heapq
from collections import Counter
from contextlib import AbstractContextManager

from tidings.flow.deliver.destination import Destination
from tidings.flow.deliver.turns import Turns
from tidings.model.priority import LANES, Lane

#: share of the places that only urgent messages may take, so that a slow host cannot hold them up (MISSION B5)
RESERVED_FOR_URGENT = 0.1
_RANKS = {lane: rank for rank, lane in enumerate(LANES)}


class _Queue:
    """Who waits for a place to send to one destination: (rank, ticket, turn), the turn True when the place is theirs"""

    def __init__(self, destination: Destination | None) -> None:
        self.destination = destination
        self.waiting: list[tuple[int, int, asyncio.Future[bool]]] = []

    def first(self) -> tuple[int, int] | None:
        """Return rank and ticket of who is next; those who gave up are forgotten."""
        while self.waiting and self.waiting[0][2].done():
            heapq.heappop(self.waiting)
        return self.waiting[0][:2] if self.waiting else None


class Gate:
    """A bounded number of places; waiters get them by lane, then in order. One event loop only.

    No destination gets more than its share of them, and who waits for one stands in nobody else's way. What hangs when
    a destination closes lends its places to the others, so for a while up to twice as many sends may be in flight.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._reserve = max(1, int(places * RESERVED_FOR_URGENT)) if places > 1 else 0
        self._queues: dict[str, _Queue] = {}
        self._inside: Counter[str] = Counter()
        #: places that sends still in flight have lent to others
        self._lent: Counter[str] = Counter()
        self._ticket = 0
        self._turns = Turns(self._admit)
        self.places = places

    @property
    def in_flight(self) -> int:
        return self.places - self._free + self._lent.total()

    def is_full(self, destination: Destination) -> bool:
        """Return whether a destination's share is taken, as far as messages that are not urgent go."""
        return self._inside[destination.name] >= destination.share(self.places)

    async def enter(self, lane: Lane, destination: Destination | None = None) -> bool:
        """Take a place, waiting for it if need be. Whoever entered must leave; False = turned away."""
        rank = _RANKS[lane]
        name = _name(destination)
        queue = self._queues.get(name)
        if queue is None and self._fits(rank, destination):
            self._take(rank, name)
            return True
        if queue is None:
            queue = self._queues[name] = _Queue(destination)
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ticket += 1
        heapq.heappush(queue.waiting, (rank, self._ticket, turn))
        # others may be waiting here for what this one need not wait for
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                # the place was handed over at the very moment of the cancellation: pass it on
                self.leave(destination)
            raise

    def leave(self, destination: Destination | None = None) -> None:
        """Give a place back."""
        name = _name(destination)
        if self._lent[name]:
            self._lent -= Counter({name: 1})
        else:
            self._free += 1
        self._inside[name] -= 1
        if not self._inside[name]:
            del self._inside[name]
        self._admit()

    def urgent_work(self) -> AbstractContextManager[None]:
        """Return a block for urgent work before its send: others begin one by one meanwhile (`Turns.urgent_work`)."""
        return self._turns.urgent_work()

    def turn_away(self, destination: Destination) -> None:
        """Let nobody wait any longer for a place to send to this destination."""
        if (queue := self._queues.pop(destination.name, None)) is not None:
            for _, _, turn in queue.waiting:
                if not turn.done():
                    turn.set_result(False)

    def lend(self, destination: Destination) -> None:
        """Let others have the places of sends that hang, as long as they do. No more than as many as there are."""
        name = destination.name
        held = self._inside[name] - self._lent[name]
        if 0 < held <= self.places - self._lent.total():
            self._lent[name] += held
            self._free += held
            self._admit()

    def _take(self, rank: int, name: str) -> None:
        self._free -= 1
        self._inside[name] += 1
        self._turns.begin(urgent=rank == 0)

    def _admit(self) -> None:
        while self._queues and self._free:
            name, queue = self._next()
            if queue is None:
                return
            rank, _, turn = heapq.heappop(queue.waiting)
            self._take(rank, name)
            turn.set_result(True)
            if queue.first() is None:
                del self._queues[name]

    def _next(self) -> tuple[str, _Queue | None]:
        """Return the queue of whoever may enter and comes first."""
        found: tuple[str, _Queue | None] = ("", None)
        best: tuple[int, int] | None = None
        for name, queue in list(self._queues.items()):
            first = queue.first()
            if first is None:
                del self._queues[name]
            elif (best is None or first < best) and self._fits(first[0], queue.destination):
                best, found = first, (name, queue)
        return found

    def _fits(self, rank: int, destination: Destination | None) -> bool:
        extra = self._reserve if rank == 0 else 0
        if self._free <= self._reserve - extra or not self._turns.free(urgent=rank == 0):
            return False
        if destination is None:
            return True
        return self._inside[destination.name] < destination.share(self.places) + extra


def _name(destination: Destination | None) -> str:
    # no destination has an empty name
    return "" if destination is None else destination.name
