"""The part of the store with the responses to requests that have an idempotency key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tidings.ports.transaction import Transaction


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to the first request under an idempotency key."""

    request_digest: str
    #: None while the first request is still running
    status: int | None
    body: bytes


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request with an idempotency key."""

    caller: str
    key: str
    request_digest: str


class IdempotencyKeys(Protocol):
    """The idempotency keys of requests, with the responses to their first use."""

    async def reserve_many(
        self, tx: Transaction, requests: Sequence[IdempotentRequest], now: datetime
    ) -> Sequence[StoredResponse | None]:
        """Reserve the keys of many requests, as `reserve`, in few statements. The keys differ. Results are in order."""
        ...

    async def complete_many(self, tx: Transaction, responses: Sequence[tuple[IdempotentRequest, int, bytes]]) -> None:
        """Store many responses, as `complete`: (request, status, body)."""
        ...

    async def reserve(
        self, tx: Transaction, *, caller: str, key: str, request_digest: str, now: datetime
    ) -> StoredResponse | None:
        """Reserve the key for this request. If it is taken, return the stored response of the first use."""
        ...

    async def complete(self, tx: Transaction, *, caller: str, key: str, status: int, body: bytes) -> None:
        """Store the response of a reserved key."""
        ...

    async def purge(self, tx: Transaction, before: datetime) -> int: ...
