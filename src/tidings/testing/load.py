"""Clients that go on asking while a system is harmed, and what was promised to them."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tidings.testing.scene import to_one
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
    over: bool = False

    async def client(self) -> None:
        """Ask, one call after the other, until it is over. Raises AssertionError for an answer that is neither."""
        while not self.over:
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
