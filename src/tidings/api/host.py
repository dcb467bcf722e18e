"""The server around a pack's routes: implements `tidings.ports.host.Host`."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from tidings.api.auth import Gate
from tidings.api.idempotency import Once, Work
from tidings.api.served import Served
from tidings.ports.clock import Clock
from tidings.ports.host import Notifier
from tidings.ports.store import Store


class ApiHost:
    """What every router gets: store, pipeline, clock, who may call, and work done once."""

    def __init__(self, runtime: Served) -> None:
        settings = runtime.settings
        self.store: Store = runtime.store
        self.notifier: Notifier = runtime.pipeline
        self.clock: Clock = runtime.clock
        self.runtime = runtime
        self.gate = Gate(
            runtime.store,
            runtime.clock,
            user_secret=settings.user_secret,
            bootstrap_key=settings.bootstrap_key,
        )
        self.work_once = Once(runtime.store, runtime.clock)

    def require(self, *scopes: str) -> Callable[[Request], Awaitable[str]]:
        """Return a dependency that lets API keys with one of the scopes pass and gives the key's id."""
        return self.gate.require(*scopes)

    async def once(self, request: Request, caller: str, work: Work) -> Response:
        """Run work in one transaction, at most once per `Idempotency-Key`."""
        return await self.work_once(request, caller, work)
