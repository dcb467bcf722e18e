"""A transaction of the store, as everybody but the store sees it."""

from collections.abc import Awaitable, Callable
from typing import Protocol


class Transaction(Protocol):
    """An open transaction, opaque to everybody but the store that made it."""

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        ...

    def on_commit(self, call: Callable[[], Awaitable[None]]) -> None:
        """Call something once it is committed. Of a joined transaction nobody tells us the end: nothing is called."""
        ...
