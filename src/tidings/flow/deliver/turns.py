"""How many sends begin together: what else the event loop has to do waits for them.

A send costs a third of a millisecond before it waits for anything. With a fast push service all 200 would begin in one
pass of the loop, again and again, and an urgent message waits for the end of a pass about a hundred times on its way
from the queue to its own send.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: sends that begin in one pass of the event loop
TOGETHER = 3
#: seconds between two that begin while urgent work is being done
BESIDE_URGENT = 0.005


class Turns:
    """Says whether a send may begin now. One event loop only."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        """go_on: called whenever a send may begin that could not before."""
        self._go_on = go_on
        #: in this pass of the loop
        self._begun = 0
        #: pieces of urgent work that are being done
        self._urgent = 0
        self._held = False

    def free(self, *, urgent: bool) -> bool:
        """Return whether a send may begin now."""
        if self._urgent and not urgent and self._held:
            return False
        return self._begun < TOGETHER

    def begin(self, *, urgent: bool) -> None:
        """Count one that begins."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next_pass)
        self._begun += 1
        if self._urgent and not urgent and not self._held:
            self._held = True
            loop.call_later(BESIDE_URGENT, self._let_go)

    @contextmanager
    def urgent_work(self) -> Iterator[None]:
        """Say that urgent work is being done in the block, so that the others begin one by one, 200 a second.

        The block is for work that waits for the database, not for a push service: that may take its time.
        """
        self._urgent += 1
        try:
            yield
        finally:
            self._urgent -= 1
            if not self._urgent:
                self._go_on()

    def _next_pass(self) -> None:
        self._begun = 0
        self._go_on()

    def _let_go(self) -> None:
        self._held = False
        self._go_on()
