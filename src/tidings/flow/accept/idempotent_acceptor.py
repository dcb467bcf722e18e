"""Accepts the calls of many callers in one transaction, each at most once per idempotency key.

The key of a call, its notifications and its response are committed together. A repeated call, after a crash or a lost
response, returns the stored response.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from tidings.errors import Conflict, ValidationFailed
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.ports.clock import Clock
from tidings.ports.store import IdempotentRequest, Store, StoredResponse, Transaction
from tidings.ports.transaction import retry_on_conflict


class AcceptsMany(Protocol):
    """The part of the pipeline that an acceptor needs."""

    async def accept_many(
        self, tx: Transaction, requests: Sequence[NotifyRequest]
    ) -> Sequence[Notification | ValidationFailed]: ...


class Keyed(Protocol):
    """A call that may carry an idempotency key."""

    @property
    def keyed_request(self) -> IdempotentRequest | None:
        """The key with the request fingerprint; None = the call has no key."""
        ...


CallT = TypeVar("CallT", bound=Keyed)
ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, slots=True)
class PreparedCall(Generic[ResponseT]):
    """A new call, ready to be accepted."""

    #: a ValidationFailed is not accepted; it is passed on to `build_response` at the same position
    requests: Sequence[NotifyRequest | ValidationFailed]
    #: results of the requests, in order → response. A ValidationFailed refuses the call, and its key stays free
    build_response: Callable[[Sequence[Notification | ValidationFailed]], ResponseT | ValidationFailed]


class IdempotentAcceptor(Generic[CallT, ResponseT]):
    """Reserves keys, accepts new calls and stores their responses. A refused call does not affect the others."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        pipeline: AcceptsMany,
        *,
        prepare: Callable[
            [Transaction, Sequence[CallT]], Awaitable[Sequence[PreparedCall[ResponseT] | ValidationFailed]]
        ],
        encode: Callable[[ResponseT], tuple[int, bytes]],
        replay: Callable[[StoredResponse, str], ResponseT],
    ) -> None:
        """Create an acceptor for one type of calls and responses.

        prepare: new calls → prepared calls, in order; a ValidationFailed refuses the call. encode: response → status
        and body to be stored with the key. replay: stored response and fingerprint of the repeated request → response;
        raises ValidationFailed for a different request under the same key, Conflict while the first request runs.
        """
        self._store = store
        self._clock = clock
        self._pipeline = pipeline
        self._prepare = prepare
        self._encode = encode
        self._replay = replay

    async def accept(self, calls: Sequence[CallT]) -> Sequence[ResponseT | ValidationFailed | Conflict]:
        """Accept calls and return the response of each, in order, after the commit.

        Raises BackendError if the database fails; then nothing is stored.
        """
        #: by index of the call
        responses: dict[int, ResponseT | ValidationFailed | Conflict] = {}
        while pending := {index: call for index, call in enumerate(calls) if index not in responses}:
            responses |= await retry_on_conflict(partial(self._run_round, pending))
        return [responses[index] for index in range(len(calls))]

    async def _run_round(self, pending: dict[int, CallT]) -> Mapping[int, ResponseT | ValidationFailed | Conflict]:
        """Accept calls in one transaction. Returns all responses, or those of the refused calls, which roll it back."""
        refused: dict[int, ValidationFailed] = {}
        try:
            async with self._store.transaction() as tx:
                responses, refused = await self._accept_pending(tx, pending)
                if any(pending[index].keyed_request for index in refused):
                    # the rollback frees the keys of refused calls; the others are accepted in the next round
                    raise _RollBack
        except _RollBack:
            return refused
        return responses

    async def _accept_pending(
        self, tx: Transaction, calls: dict[int, CallT]
    ) -> tuple[dict[int, ResponseT | ValidationFailed | Conflict], dict[int, ValidationFailed]]:
        """Return the response of each call, and the errors of those new calls that were refused."""
        replayed = await self._reserve_or_replay(tx, calls)
        new_calls = {index: call for index, call in calls.items() if index not in replayed}
        responses = (
            dict(zip(new_calls, await self._accept_new(tx, list(new_calls.values())), strict=True)) if new_calls else {}
        )
        to_store = [
            (keyed, *self._encode(response))
            for index, response in responses.items()
            if (keyed := new_calls[index].keyed_request) and not isinstance(response, ValidationFailed)
        ]
        if to_store:
            await self._store.idempotency_keys.complete_many(tx, to_store)
        refused = {index: response for index, response in responses.items() if isinstance(response, ValidationFailed)}
        return replayed | responses, refused

    async def _reserve_or_replay(
        self, tx: Transaction, calls: dict[int, CallT]
    ) -> dict[int, ResponseT | ValidationFailed | Conflict]:
        """Reserve the keys. Returns the responses of the calls whose key was used before."""
        keyed = {index: call.keyed_request for index, call in calls.items() if call.keyed_request}
        if not keyed:
            return {}
        stored = await self._store.idempotency_keys.reserve_many(tx, list(keyed.values()), self._clock.now())
        replayed: dict[int, ResponseT | ValidationFailed | Conflict] = {}
        for (index, request), response in zip(keyed.items(), stored, strict=True):
            if response is not None:
                try:
                    replayed[index] = self._replay(response, request.request_digest)
                except (ValidationFailed, Conflict) as error:
                    replayed[index] = error
        return replayed

    async def _accept_new(self, tx: Transaction, calls: Sequence[CallT]) -> Sequence[ResponseT | ValidationFailed]:
        prepared = await self._prepare(tx, calls)
        valid_calls = [call for call in prepared if isinstance(call, PreparedCall)]
        requests = [
            request for call in valid_calls for request in call.requests if not isinstance(request, ValidationFailed)
        ]
        results = iter(await self._pipeline.accept_many(tx, requests) if requests else ())
        responses = (
            call.build_response(
                [request if isinstance(request, ValidationFailed) else next(results) for request in call.requests]
            )
            for call in valid_calls
        )
        return [call if isinstance(call, ValidationFailed) else next(responses) for call in prepared]


class _RollBack(Exception):
    """Leaves the transaction block, so that the transaction is rolled back."""
