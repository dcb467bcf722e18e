"""`Idempotency-Key`: the key, the work and the answer are committed in one transaction (API.md)."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from fastapi import Request
from starlette.responses import Response

from tidings.errors import Conflict, Invalid
from tidings.ports.clock import Clock
from tidings.ports.store import FirstAnswer, KeyedRequest, Store, Transaction

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255

#: runs in the transaction, returns status and JSON body
Work = Callable[[Transaction], Awaitable[tuple[int, object]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent to the caller."""

    status: int
    body: bytes
    replayed: bool = False

    def response(self) -> Response:
        """Return the HTTP response."""
        headers = {"Idempotency-Replayed": "true"} if self.replayed else None
        return Response(self.body if self.status != 204 else b"", self.status, headers, "application/json")


class Once:
    """Does work at most once per caller and key."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def __call__(self, request: Request, caller: str, work: Work) -> Response:
        """Run the work of a request, or repeat its first answer."""
        key = key_of(request)
        digest = digest_of(request, await request.body()) if key is not None else ""
        return (await self.run(caller, key, digest, work)).response()

    async def run(self, caller: str, key: str | None, digest: str, work: Work) -> Answer:
        """Run work in one transaction together with its key and answer.

        digest: of the whole request, hex. Raises Invalid (code `idempotency_key_reused`) if the key was used for
        another request, Conflict (code `idempotency_key_in_use`) while its first use still runs. When the work
        raises, everything is rolled back and the key is free again.
        """
        async with self._store.begin() as tx:
            return await self._in(tx, caller, key, digest, work)

    async def _in(self, tx: Transaction, caller: str, key: str | None, digest: str, work: Work) -> Answer:
        if key is not None:
            first = await self._store.idempotency.reserve(
                tx, caller=caller, key=key, request_digest=digest, now=self._clock.now()
            )
            if first is not None:
                return again(first, digest)
        status, body = await work(tx)
        answer = Answer(status, msgspec.json.encode(body))
        if key is not None:
            await self._store.idempotency.answer(tx, caller=caller, key=key, status=status, body=answer.body)
        return answer


def key_of(request: Request) -> str | None:
    """Return the request's idempotency key. Raises Invalid if it is empty, too long or not printable ASCII."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise Invalid.field(HEADER, f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    return key


def keyed_of(request: Request, caller: str, body: bytes) -> KeyedRequest | None:
    """Return the request under its key, None if it has none. Raises Invalid as `key_of`."""
    key = key_of(request)
    return None if key is None else KeyedRequest(caller, key, digest_of(request, body))


def digest_of(request: Request, body: bytes) -> str:
    """Return a digest of everything that makes two requests the same: method, path, query, body."""
    line = f"{request.method} {request.url.path}?{request.url.query}\n"
    return hashlib.sha256(line.encode() + body).hexdigest()


def again(first: FirstAnswer, digest: str) -> Answer:
    """Return the first answer once more.

    digest: of the request that has come now. Raises Invalid (code `idempotency_key_reused`) if it is another request,
    Conflict (code `idempotency_key_in_use`) while the first use still runs.
    """
    if first.request_digest != digest:
        raise Invalid(
            f"This {HEADER} was used for another request: use a new one for new work.", code="idempotency_key_reused"
        )
    if first.status is None:
        raise Conflict(
            f"The first request with this {HEADER} is still running: ask again soon.", code="idempotency_key_in_use"
        )
    return Answer(first.status, first.body, replayed=True)
