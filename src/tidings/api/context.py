"""The services that routers receive. Implements `tidings.ports.pack_context.PackContext`."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from fastapi import Request

from tidings.api.accepting.idempotency import IdempotencyContext, KeyHeader
from tidings.api.http.authentication import Authenticator
from tidings.api.http.lookups import get_user_or_404
from tidings.api.http.rate_limit import RouteLimits
from tidings.container import AppContainer
from tidings.model.template import Category
from tidings.model.user import User
from tidings.ports.channel import Channel
from tidings.ports.clock import Clock
from tidings.ports.pack_context import NotificationAcceptor
from tidings.ports.rate_limits import RateLimit
from tidings.ports.store import Store, Transaction


class RouteContext:
    """Store, pipeline, clock, authentication and idempotency, for every router."""

    def __init__(self, runtime: AppContainer) -> None:
        settings = runtime.settings
        self.store: Store = runtime.store
        self.notifier: NotificationAcceptor = runtime.pipeline
        self.clock: Clock = runtime.clock
        self.runtime = runtime
        self.settings = settings
        self.secret_key = settings.secret_key
        self.channels: Mapping[str, Channel] = runtime.channels
        self.authenticator = Authenticator(
            runtime.store,
            runtime.clock,
            user_secret=settings.user_secret,
            bootstrap_key=settings.bootstrap_key,
        )
        self._limits = RouteLimits(runtime.rate_limiter, settings.trusted_proxies)

    def get_category(self, code: str) -> Category:
        """Return a category. One whose pack is no longer installed has the default rules."""
        return self.runtime.catalog.get_category(code)

    def edit_preferences(self, user_id: str) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction that changes a user's preferences. Cached ones are dropped in every process."""
        return self.runtime.preferences.edit(user_id)

    def require_scopes(self, *scopes: str) -> Callable[[Request], Awaitable[str]]:
        """Return a dependency that requires an API key with one of the scopes. Its value is the key's id."""
        return self.authenticator.require_scopes(*scopes)

    def require_user(self) -> Callable[[Request], Awaitable[str]]:
        """Return a dependency that requires a user token. Its value is the user's id."""
        return self.authenticator.require_user()

    def rate_limited(
        self, name: str, rate: RateLimit, key_for: Callable[[Request], Awaitable[str]] | None = None
    ) -> Callable[[Request], Awaitable[None]]:
        """Return a dependency that limits calls per key (default: the address of the client), see `RouteLimits`."""
        return self._limits.limit(name, rate, key_for)

    def limit_users(
        self, name: str, rate: RateLimit, user_of: Callable[[Request], Awaitable[str]]
    ) -> Callable[[Request], Awaitable[None]]:
        """Return a dependency that limits the calls of each user, but not those with an API key.

        user_of: the second dependency of `Authenticator.require_scopes_or_user`.
        """
        limit = self.rate_limited(name, rate, user_of)

        async def check(request: Request) -> None:
            if await user_of(request):
                await limit(request)

        return check

    async def get_user(self, tx: Transaction, user_id: str, *, lock: bool = False) -> User:
        """Return a user. Raises NotFound."""
        return await get_user_or_404(self.store, tx, user_id, lock=lock)

    async def idempotent(self, request: Request, key: KeyHeader = None) -> IdempotencyContext:
        """Return the idempotency context of a request. A FastAPI dependency."""
        return IdempotencyContext(self.store, self.clock, request, b"" if key is None else await request.body())
