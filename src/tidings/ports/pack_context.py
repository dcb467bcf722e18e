"""The services that packs and the routes of channels receive: store, notifier, authentication, idempotency."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.template import Category
from tidings.model.user import User
from tidings.ports.channel import Channel
from tidings.ports.clock import Clock
from tidings.ports.rate_limits import RateLimit
from tidings.ports.store import Store, Transaction

if TYPE_CHECKING:
    from fastapi import Request, Response

    from tidings.config.settings import Settings


class NotificationAcceptor(Protocol):
    """Accepts notifications."""

    async def accept(self, tx: Transaction, request: NotifyRequest) -> Notification:
        """Validate and store a notification in the transaction.

        Raises ValidationFailed naming each wrong field and the fix.
        """
        ...

    async def withdraw(self, tx: Transaction, subject: str) -> None:
        """Cancel what is unsent of the notifications on a subject, and on the subjects below it."""
        ...


@dataclass(frozen=True, slots=True)
class PackServices:
    """The services for the background tasks of a pack."""

    store: Store
    notifier: NotificationAcceptor
    clock: Clock


class Call(Protocol):
    """One execution of a request's work, in a transaction."""

    tx: Transaction

    def respond(self, status: int, body: object) -> Response:
        """Set the response, with a JSON document as body. It is stored with the idempotency key."""
        ...


class Idempotent(Protocol):
    """Executes the work of one request at most once per caller and `Idempotency-Key`."""

    def __call__(self, caller: str, *, location: str = "") -> AbstractAsyncContextManager[Call]:
        """Open a transaction. For a repeated request the block does not run.

        `async with idempotent(caller) as call: return call.respond(201, body)`: the block's changes in `call.tx`, the
        key and the response are committed together. location: the path of the created resource without its id, for
        the `Location` header.
        """
        ...


class PackContext(Protocol):
    """The services of the server for the routes of a pack or a channel."""

    store: Store
    notifier: NotificationAcceptor
    clock: Clock
    #: also those from which a channel reads its own
    settings: Settings
    #: wraps secrets and signs links
    secret_key: str
    #: the configured channels by name
    channels: Mapping[str, Channel]

    def get_category(self, code: str) -> Category:
        """Return a category. One whose pack is no longer installed has the default rules."""
        ...

    def edit_preferences(self, user_id: str) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction that changes a user's preferences. Cached ones are dropped in every process."""
        ...

    def require_scopes(self, *scopes: str) -> Callable[[Request], Awaitable[str]]:
        """Return a FastAPI dependency that requires an API key with one of the scopes and returns the key's id."""
        ...

    def require_user(self) -> Callable[[Request], Awaitable[str]]:
        """Return a FastAPI dependency that requires a user token and returns the user's id."""
        ...

    def rate_limited(
        self, name: str, rate: RateLimit, key_for: Callable[[Request], Awaitable[str]] | None = None
    ) -> Callable[[Request], Awaitable[None]]:
        """Return a FastAPI dependency that limits the calls of each key, 429 beyond.

        name: of the limit; several routes may share one. key_for: a dependency, default: the address of the client.
        """
        ...

    async def get_user(self, tx: Transaction, user_id: str, *, lock: bool = False) -> User:
        """Return a user. lock: required before rows that refer to the user are stored. Raises NotFound."""
        ...

    async def idempotent(self, request: Request, key: str | None = None) -> Idempotent:
        """Return the `Idempotent` of a request, as a FastAPI dependency. `key` is the `Idempotency-Key` header."""
        ...
