"""Work in several transactions under one `Idempotency-Key`."""

import hashlib

from fastapi import Request

from tidings.api.idempotency import Once, Work, digest_of, key_of


class InParts:
    """Each part is answered for itself: a request that was cut off goes on where it stopped when it is repeated."""

    def __init__(self, once: Once, request: Request, caller: str, body: bytes) -> None:
        """Take the request. Raises Invalid for a key that cannot be one."""
        self._once = once
        self._caller = caller
        key = key_of(request)
        self._prefix = None if key is None else f"parts:{hashlib.sha256(key.encode()).hexdigest()}"
        self._digest = "" if key is None else digest_of(request, body)
        self._number = 0
        self._replayed = True

    @property
    def headers(self) -> dict[str, str] | None:
        """What is said of an answer all of whose parts had been given before."""
        return {"Idempotency-Replayed": "true"} if self._replayed else None

    async def do(self, work: Work) -> bytes:
        """Do the next part in a transaction of its own, or repeat its first answer; return the JSON.

        Raises Invalid and Conflict as `Once.run` does.
        """
        key = None if self._prefix is None else f"{self._prefix}:{self._number}"
        answer = await self._once.run(self._caller, key, self._digest, work)
        self._number += 1
        self._replayed = self._replayed and answer.replayed
        return answer.body
