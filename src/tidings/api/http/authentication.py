"""Authenticates callers by API key (with scopes) or user token.

Only bearer credentials are accepted. Without cookies, another site cannot act for a user (CSRF).
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cachetools import LRUCache
from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from tidings.credentials import KEY_PREFIX, digest_api_key, has_api_key_format, verify_user_token
from tidings.errors import Forbidden, Unauthenticated
from tidings.ports.clock import Clock
from tidings.ports.store import ApiKey, Store

#: how long a loaded key is cached: a revoked key is accepted for at most this long in this process
CACHE_TTL = timedelta(seconds=5)
#: largest number of cached keys
CACHE_SIZE = 1000
_BOOTSTRAP_ID = "bootstrap"
#: the caller of a request in its ASGI scope
_CALLER_KEY = "tidings.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated sender of a request."""

    kind: Literal["key", "user"]
    #: id of the API key, or of the user
    id: str
    scopes: frozenset[str] = frozenset()

    def has_any_scope(self, *scopes: str) -> bool:
        """Whether the caller has one of the scopes. `admin` implies all."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)


class Bearer(SecurityBase):
    """A dependency whose value is the caller's id, described as a security scheme in OpenAPI."""

    def __init__(self, scheme_name: str, model: HTTPBearer, identify: Callable[[Request], Awaitable[str]]) -> None:
        self.scheme_name = scheme_name
        self.model = model
        self._identify = identify

    async def __call__(self, request: Request) -> str:
        """Return the caller's id. Raises Unauthenticated and Forbidden."""
        return await self._identify(request)


_API_KEY = HTTPBearer(description="API key of a server: `tdg_…`")
_USER_TOKEN = HTTPBearer(bearerFormat="JWT", description="Short-lived token of one user: HS256, claims `sub` and `exp`")


class Authenticator:
    """Identifies the caller of a request by its `Authorization` header."""

    def __init__(self, store: Store, clock: Clock, *, user_secret: str, bootstrap_key: str = "") -> None:
        self._store = store
        self._clock = clock
        self._user_secret = user_secret
        self._bootstrap_digest = digest_api_key(bootstrap_key) if bootstrap_key else None
        #: digest → (key, None if unknown; expiry). Unknown keys are cached against floods of invented keys
        self._key_cache: LRUCache[str, tuple[ApiKey | None, datetime]] = LRUCache(CACHE_SIZE)

    def require_scopes(self, *scopes: str) -> Bearer:
        """Return a dependency that requires an API key with one of the scopes. Its value is the key's id."""

        async def identify(request: Request) -> str:
            caller = await self.authenticate(request)
            if caller.kind != "key":
                raise Forbidden("This route requires an API key, not a user token.", code="needs_api_key")
            if not caller.has_any_scope(*scopes):
                names = " or ".join(dict.fromkeys((*scopes, "admin")))
                raise Forbidden(f"The API key lacks the scope {names}.", code="missing_scope")
            return caller.id

        return Bearer("apiKey", _API_KEY, identify)

    def require_user(self) -> Bearer:
        """Return a dependency that requires a user token. Its value is the user's id."""

        async def identify(request: Request) -> str:
            caller = await self.authenticate(request)
            if caller.kind != "user":
                raise Forbidden(
                    "This route requires a user token, not an API key. POST /api/users/{id}/token creates a token.",
                    code="needs_user_token",
                )
            return caller.id

        return Bearer("userToken", _USER_TOKEN, identify)

    def require_scopes_or_user(self, *scopes: str) -> tuple[Bearer, Bearer]:
        """Return two dependencies for a route that accepts an API key with one of the scopes, or a user token.

        The value of the first is the id of the key, that of the second the id of the user; empty for the other kind.
        """
        require_key = self.require_scopes(*scopes)

        async def identify_key(request: Request) -> str:
            return "" if (await self.authenticate(request)).kind == "user" else await require_key(request)

        async def identify_user(request: Request) -> str:
            caller = await self.authenticate(request)
            return caller.id if caller.kind == "user" else ""

        return Bearer("apiKey", _API_KEY, identify_key), Bearer("userToken", _USER_TOKEN, identify_user)

    async def authenticate(self, request: Request) -> Caller:
        """Return the caller of a request. Raises Unauthenticated."""
        # several dependencies of a route need the caller: its scope, its rate limit
        known: Caller | None = request.scope.get(_CALLER_KEY)
        if known is None:
            known = request.scope[_CALLER_KEY] = await self._authenticate(request)
        return known

    async def _authenticate(self, request: Request) -> Caller:
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        credential = credential.strip()
        if not scheme:
            raise Unauthenticated("Credentials are missing. Send Authorization: Bearer <API key or user token>.")
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("The Authorization header must be: Bearer <API key or user token>.")
        digest = digest_api_key(credential)
        if self._bootstrap_digest is not None and secrets.compare_digest(digest, self._bootstrap_digest):
            return Caller("key", _BOOTSTRAP_ID, frozenset({"admin"}))
        if credential.startswith(KEY_PREFIX):
            return await self._authenticate_key(credential, digest)
        return Caller("user", verify_user_token(self._user_secret, credential, self._clock.now()))

    async def _authenticate_key(self, plain: str, digest: str) -> Caller:
        if not has_api_key_format(plain):
            raise Unauthenticated("The API key is malformed or truncated: its checksum is wrong.", code="invalid_key")
        key = await self._find_key(digest)
        if key is None or not secrets.compare_digest(key.digest, digest):
            raise Unauthenticated("The API key is unknown.", code="invalid_key")
        if key.revoked_at is not None and key.revoked_at <= self._clock.now():
            raise Unauthenticated("The API key was revoked.", code="invalid_key")
        return Caller("key", key.id, key.scopes)

    async def _find_key(self, digest: str) -> ApiKey | None:
        # not a TTLCache: the expiry counts from before the read, so that a slow read does not prolong a revoked key
        now = self._clock.now()
        cached = self._key_cache.get(digest)
        if cached is not None and cached[1] > now:
            return cached[0]
        async with self._store.read_snapshot() as tx:
            key = await self._store.api_keys.find(tx, digest)
        self._key_cache[digest] = (key, now + CACHE_TTL)
        return key
