"""Who calls: API keys with scopes, user tokens. Bearer only, no cookies, so no other site can act for a user."""

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from fastapi import Request

from tidings.credentials import KEY_PREFIX, digest_api_key, looks_like_api_key, read_user_token
from tidings.errors import Forbidden, Unauthenticated
from tidings.ports.clock import Clock
from tidings.ports.store import ApiKey, Store

#: how long a looked-up key is believed: a revoked key works at most this much longer in this process
CACHE_FOR = timedelta(seconds=5)
#: looked-up keys remembered at most
CACHE_SIZE = 1000
_BOOTSTRAP_ID = "bootstrap"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    kind: Literal["key", "user"]
    #: id of the API key, or of the user
    id: str
    scopes: frozenset[str] = frozenset()

    def may(self, *scopes: str) -> bool:
        """Say whether one of the scopes is held; admin implies all."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)


Dependency = Callable[[Request], Awaitable[str]]


class Gate:
    """Turns the `Authorization` header into a caller."""

    def __init__(self, store: Store, clock: Clock, *, user_secret: str, bootstrap_key: str = "") -> None:
        self._store = store
        self._clock = clock
        self._user_secret = user_secret
        self._bootstrap_digest = digest_api_key(bootstrap_key) if bootstrap_key else None
        #: digest → (key or None if unknown, believed until); unknown ones too, against floods of made-up keys
        self._known: OrderedDict[str, tuple[ApiKey | None, datetime]] = OrderedDict()

    def require(self, *scopes: str) -> Dependency:
        """Return a dependency that lets API keys with one of the scopes pass and gives the key's id."""

        async def dependency(request: Request) -> str:
            caller = await self.caller(request)
            if caller.kind != "key":
                raise Forbidden("This route is for servers: send an API key, not a user token.", code="needs_api_key")
            if not caller.may(*scopes):
                names = " or ".join(dict.fromkeys((*scopes, "admin")))
                raise Forbidden(f"This API key lacks the scope: {names}.", code="missing_scope")
            return caller.id

        return dependency

    def user(self) -> Dependency:
        """Return a dependency that lets user tokens pass and gives the user's id."""

        async def dependency(request: Request) -> str:
            caller = await self.caller(request)
            if caller.kind != "user":
                raise Forbidden(
                    "This route is for a user's own browser: send a user token "
                    "(POST /api/users/{id}/token makes one), not an API key.",
                    code="needs_user_token",
                )
            return caller.id

        return dependency

    async def caller(self, request: Request) -> Caller:
        """Return who sent the request. Raises Unauthenticated."""
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        credential = credential.strip()
        if not scheme:
            raise Unauthenticated("Say who you are: Authorization: Bearer <API key or user token>.")
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("The Authorization header must read: Bearer <API key or user token>.")
        digest = digest_api_key(credential)
        if self._bootstrap_digest is not None and secrets.compare_digest(digest, self._bootstrap_digest):
            return Caller("key", _BOOTSTRAP_ID, frozenset({"admin"}))
        if credential.startswith(KEY_PREFIX):
            return await self._by_key(credential, digest)
        return Caller("user", read_user_token(self._user_secret, credential, self._clock.now()))

    async def _by_key(self, plain: str, digest: str) -> Caller:
        if not looks_like_api_key(plain):
            raise Unauthenticated("This is not an API key: its checksum is wrong. Was it cut off?", code="invalid_key")
        key = await self._find(digest)
        if key is None or not secrets.compare_digest(key.digest, digest):
            raise Unauthenticated("This API key is unknown.", code="invalid_key")
        if key.revoked_at is not None and key.revoked_at <= self._clock.now():
            raise Unauthenticated("This API key was revoked.", code="invalid_key")
        return Caller("key", key.id, key.scopes)

    async def _find(self, digest: str) -> ApiKey | None:
        now = self._clock.now()
        known = self._known.get(digest)
        if known is not None and known[1] > now:
            return known[0]
        async with self._store.read() as tx:
            key = await self._store.api_keys.find(tx, digest)
        self._known[digest] = (key, now + CACHE_FOR)
        self._known.move_to_end(digest)
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
        return key
