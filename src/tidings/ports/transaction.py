"""A transaction of the store, opaque to all other code, and the repetition of one that met a concurrent one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from tidings.errors import MissingReference, TransactionConflict

_T = TypeVar("_T")
#: runs of work whose transaction meets concurrent ones, in total
MAX_RUNS = 6
#: seconds before the second run; doubled before each further one, and shortened at random, so that two callers separate
FIRST_PAUSE = 0.02


class Transaction(Protocol):
    """An open transaction. Only the store that created it knows the connection inside."""

    @property
    def is_closed(self) -> bool:
        """Whether the transaction has ended."""
        ...

    def on_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Register a callback that runs after the commit.

        It is never called for an adopted transaction (`Store.adopt`): the store does not see its commit.
        """
        ...


async def retry_on_conflict(work: Callable[[], Awaitable[_T]]) -> _T:
    """Run work and return its result. Repeat it if a concurrent transaction made the database roll its own one back.

    work: opens its own transaction, and has no other effect that must not be repeated. A missing reference is repeated
    too: the next run finds with its first query that the row was deleted, and reports it as usual. Raises
    TransactionConflict or MissingReference after `MAX_RUNS` runs.
    """
    pause = FIRST_PAUSE
    for _ in range(MAX_RUNS - 1):
        try:
            return await work()
        except (TransactionConflict, MissingReference):
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # not a secret
            pause *= 2
    return await work()
