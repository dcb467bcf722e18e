"""`Idempotency-Key`: the key, the work and the response are committed in one transaction.

`IdempotencyContext` opens that transaction for a route. `ResumableRequest` spreads the work of one request over several
transactions under the same key.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import Header, Request
from starlette.responses import Response

from tidings.errors import Conflict, ValidationFailed
from tidings.ports.clock import Clock
from tidings.ports.store import IdempotentRequest, Store, StoredResponse, Transaction
from tidings.schemas.response_models import with_location

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255
#: response headers of a stored response
REPLAYED_HEADERS = {"Idempotency-Replayed": "true"}
_DESCRIPTION = (
    "A repeat with the same key and body returns the stored response (`Idempotency-Replayed: true`). Kept for 24 h."
)

#: the header as a parameter of a route
KeyHeader = Annotated[str | None, Header(alias=HEADER, max_length=MAX_KEY_LENGTH, description=_DESCRIPTION)]


@dataclass(frozen=True, slots=True)
class IdempotentResponse:
    """A response as it is stored with an idempotency key."""

    status: int
    #: JSON
    body: bytes
    is_replayed: bool = False

    def to_response(self, location: str = "") -> Response:
        """Return the HTTP response. location: the path under which the created resource is read by its id."""
        headers = REPLAYED_HEADERS if self.is_replayed else None
        response = Response(self.body if self.status != 204 else b"", self.status, headers, "application/json")
        return with_location(response, location) if location else response


class Replayed(Exception):
    """The request already has a stored response; the application sends it."""

    def __init__(self, response: IdempotentResponse, location: str = "") -> None:
        super().__init__(response.status)
        self.response = response
        self.location = location


async def replay(_: Request, error: Exception) -> Response:
    """Handle `Replayed`."""
    assert isinstance(error, Replayed)
    return error.response.to_response(error.location)


class IdempotentCall:
    """One request under a key: its work in `tx` is committed together with its response."""

    def __init__(self, tx: Transaction, location: str = "") -> None:
        self.tx = tx
        self.response: IdempotentResponse | None = None
        self._location = location

    def respond(self, status: int, body: object) -> Response:
        """Set the response that is stored with the key, and return it. body: a JSON document."""
        self.response = IdempotentResponse(status, msgspec.json.encode(body))
        return self.response.to_response(self._location)


@asynccontextmanager
async def idempotent_transaction(
    store: Store, clock: Clock, keyed: IdempotentRequest | None, location: str = ""
) -> AsyncIterator[IdempotentCall]:
    """Open a transaction for work that runs at most once per caller and key, and ends with `IdempotentCall.respond`.

    keyed: None = the request has no key, and no response is stored. If the block raises, everything is rolled back and
    the key is free again. Raises Replayed if the key has a stored response, ValidationFailed (code
    `idempotency_key_reused`) if the key was used for another request, Conflict (code `idempotency_key_in_use`) while
    the first use is running.
    """
    async with store.transaction() as tx:
        if keyed is not None:
            (stored,) = await store.idempotency_keys.reserve_many(tx, [keyed], clock.now())
            if stored is not None:
                raise Replayed(replay_response(stored, keyed.request_digest), location)
        call = IdempotentCall(tx, location)
        yield call
        if call.response is None:
            raise RuntimeError("the block must end with call.respond(status, body)")
        if keyed is not None:
            await store.idempotency_keys.complete_many(tx, [(keyed, call.response.status, call.response.body)])


@dataclass(frozen=True, slots=True)
class IdempotencyContext:
    """One HTTP request that may carry an idempotency key."""

    store: Store
    clock: Clock
    request: Request
    #: the body; not read for a request without a key
    raw: bytes

    def __call__(self, caller: str, *, location: str = "") -> AbstractAsyncContextManager[IdempotentCall]:
        """Open a transaction for the caller's work, see `idempotent_transaction`.

        location: the path under which the created resource is read by its id.
        """
        return idempotent_transaction(self.store, self.clock, self.keyed_request(caller), location)

    def keyed_request(self, caller: str) -> IdempotentRequest | None:
        """Return the request with its key, None without a key. Raises ValidationFailed for a malformed key."""
        return read_keyed_request(self.request, caller, self.raw)


class ResumableRequest:
    """A request of several transactions under one key. A repeat continues after the last committed step."""

    def __init__(self, request: IdempotencyContext, caller: str) -> None:
        """Raise ValidationFailed for a malformed key."""
        self._store = request.store
        self._clock = request.clock
        self._keyed = request.keyed_request(caller)
        self._step_number = 0
        self._is_replayed = True

    @property
    def headers(self) -> dict[str, str] | None:
        """Response headers: whether every step was replayed."""
        return REPLAYED_HEADERS if self._is_replayed else None

    async def run_step(self, handler: Callable[[Transaction], Awaitable[object]]) -> bytes:
        """Run the next step in its own transaction, or load its stored result. Returns the result as JSON.

        Raises ValidationFailed and Conflict as `idempotent_transaction` does.
        """
        keyed = self._keyed
        if keyed is not None:
            name = f"parts:{hashlib.sha256(keyed.key.encode()).hexdigest()}:{self._step_number}"
            keyed = IdempotentRequest(keyed.caller, name, keyed.request_digest)
        self._step_number += 1
        try:
            async with idempotent_transaction(self._store, self._clock, keyed) as call:
                self._is_replayed = False
                return bytes(call.respond(200, await handler(call.tx)).body)
        except Replayed as replayed:
            return replayed.response.body


def read_key(request: Request) -> str | None:
    """Return the idempotency key, None without one.

    Raises ValidationFailed if it is empty, too long or not printable ASCII.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise ValidationFailed.for_field(HEADER, f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    return key


def read_keyed_request(request: Request, caller: str, body: bytes) -> IdempotentRequest | None:
    """Return the request with its key, None without a key. Raises ValidationFailed as `read_key`."""
    key = read_key(request)
    return None if key is None else IdempotentRequest(caller, key, request_fingerprint(request, body))


def request_fingerprint(request: Request, body: bytes) -> str:
    """Return the hash of method, path, query and body. Equal requests have equal fingerprints."""
    # not `request.url`, which includes the Host header, so that a caller could give it any form
    scope = request.scope
    line = f"{scope['method']} {scope['path']}?{scope['query_string'].decode('latin-1')}\n"
    return hashlib.sha256(line.encode() + body).hexdigest()


def replay_response(stored: StoredResponse, digest: str) -> IdempotentResponse:
    """Return the stored response for a repeated request.

    digest: fingerprint of the repeated request. Raises ValidationFailed (code `idempotency_key_reused`) if it differs
    from the stored one, Conflict (code `idempotency_key_in_use`) while the first use is running.
    """
    if stored.request_digest != digest:
        raise ValidationFailed(
            f"This {HEADER} was already used for a different request. Use a new key.", code="idempotency_key_reused"
        )
    if stored.status is None:
        raise Conflict(
            f"The first request with this {HEADER} is still running. Retry later.", code="idempotency_key_in_use"
        )
    return IdempotentResponse(stored.status, stored.body, is_replayed=True)
