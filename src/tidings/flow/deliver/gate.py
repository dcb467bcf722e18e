"""How many sends are in flight, and who goes first when a place becomes free."""

import asyncio
import heapq

from tidings.model.priority import LANES, Lane

#: share of the places that only urgent messages may take, so that a slow host cannot hold them up (MISSION B5)
RESERVED_FOR_URGENT = 0.1
_RANKS = {lane: rank for rank, lane in enumerate(LANES)}


class Gate:
    """A bounded number of places; waiters get them by lane, then in order. One event loop only."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._reserve = max(1, int(places * RESERVED_FOR_URGENT)) if places > 1 else 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = 0
        self.places = places

    @property
    def in_flight(self) -> int:
        return self.places - self._free

    async def enter(self, lane: Lane) -> None:
        """Take a place, waiting for it if need be. Whoever entered must leave."""
        rank = _RANKS[lane]
        if self._free > self._keep(rank) and not (self._waiting and self._waiting[0][0] <= rank):
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ticket += 1
        heapq.heappush(self._waiting, (rank, self._ticket, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # the place was handed over at the very moment of the cancellation: pass it on
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._free > self._keep(self._waiting[0][0]):
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._free -= 1
                turn.set_result(None)

    def _keep(self, rank: int) -> int:
        return 0 if rank == 0 else self._reserve
