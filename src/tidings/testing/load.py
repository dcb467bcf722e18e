"""Clients that go on asking while a system is harmed, and what was promised to them."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tidings.testing.oracle import Books
from tidings.testing.scene import all_final, to_one
from tidings.testing.server import TidingsServer


@dataclass
class Load:
    """Clients that go on asking, each call under a key of its own, repeated until it is answered with a 2xx."""

    api: TidingsServer
    people: list[str]
    keys: Iterator[int] = field(default_factory=itertools.count)
    #: key → notification
    promised: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    without_retry_after: int = 0
    _clients: list[asyncio.Task[None]] = field(default_factory=list)
    _over: bool = False

    def begin(self, clients: int = 4) -> None:
        """Let so many clients ask, each one call after the other."""
        self._clients = [asyncio.create_task(self._client()) for _ in range(clients)]

    async def kept(self) -> None:
        """End it, and assert that each promise is kept, and that there was no answer but 202 and 503."""
        self._over = True
        await asyncio.gather(*self._clients)
        for notification in self.promised.values():
            assert await all_final(self.api, notification, within=150) == {"delivered": 1}
        assert self.without_retry_after == 0

    def check(self, books: Books, broadcast: str, *, at_most_twice: int) -> None:
        """Assert that a broadcast to all people and what was promised are there, whole, and nothing else is.

        at_most_twice: the promised bound of messages sent again.
        """
        people = len(self.people)
        books.check_counts()
        # one notification for each key, whatever was lost on the way
        assert set(books.counts) == {broadcast, *self.promised.values()}
        assert len(set(self.promised.values())) == len(self.promised)
        assert books.states == {"delivered": people + len(self.promised)}
        assert len(books.receipts) == people + len(self.promised)
        assert books.duplicates <= at_most_twice

    async def _client(self) -> None:
        while not self._over:
            number = next(self.keys)
            await self._until_promised(f"key-{number}", self.people[number % len(self.people)])

    async def _until_promised(self, key: str, user: str) -> None:
        while key not in self.promised:
            answer = await self.api.call("POST", "/api/notifications", to_one(user), headers={"Idempotency-Key": key})
            self.statuses[answer.status] += 1
            match answer.status:
                case 202:
                    self.promised[key] = answer.read(dict[str, Any])["id"]
                case 503:
                    self.without_retry_after += "retry-after" not in answer.headers
                    await asyncio.sleep(0.1)
                case status:
                    raise AssertionError(f"{status}: {answer.body[:500]!r}")

    async def has_promised(self, number: int) -> bool:
        """Whether so many notifications were promised."""
        return len(self.promised) >= number

    async def was_refused(self, number: int) -> bool:
        """Whether so many calls were answered with 503."""
        return self.statuses[503] >= number
