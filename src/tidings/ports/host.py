"""What a pack's routes may use of the server they are mounted in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction

if TYPE_CHECKING:
    from fastapi import Request, Response


class Notifier(Protocol):
    """Accepts notifications."""

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification:
        """Validate and store a notification inside the transaction. Raises Invalid naming the field and the fix."""
        ...


class Host(Protocol):
    """The server around a pack's routes."""

    store: Store
    notifier: Notifier
    clock: Clock

    def require(self, *scopes: str) -> Callable[[Request], Awaitable[str]]:
        """Return a FastAPI dependency that lets API keys with one of the scopes pass and gives the key's id."""
        ...

    async def once(
        self, request: Request, caller: str, work: Callable[[Transaction], Awaitable[tuple[int, object]]]
    ) -> Response:
        """Run work in one transaction, at most once per `Idempotency-Key`; work returns status and JSON body.

        The key, the work and the answer are committed together.
        """
        ...
