"""Group commit: the notifications, idempotency keys and responses of many accept calls share one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from tidings.api.accepting.idempotency import IdempotentResponse, replay_response
from tidings.api.context import RouteContext
from tidings.api.http import ndjson
from tidings.errors import ValidationFailed
from tidings.flow.accept.idempotent_acceptor import IdempotentAcceptor, PreparedCall
from tidings.flow.pipeline import Pipeline
from tidings.micro_batcher import MicroBatcher
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.ports.clock import Clock
from tidings.ports.store import IdempotentRequest, Store, Transaction
from tidings.schemas.notification_request import NotifyBody, to_notify_request, with_caller_field_names

#: transactions that run at the same time. SQLite has one writer; elsewhere a second group proceeds while the first
#: waits for a lock. More groups are smaller groups: on PostgreSQL, four cost 20 % more CPU per request than one
CONCURRENT_GROUPS_SINGLE_WRITER, CONCURRENT_GROUPS = 1, 2

#: the result of one accepted request: the stored notification, or why the request is invalid
AcceptResult = Notification | ValidationFailed


@dataclass(frozen=True, slots=True)
class AcceptCall:
    """One accept call of a group: its requests, and how to build its response."""

    #: None: the call has no idempotency key
    keyed_request: IdempotentRequest | None
    #: number of notifications
    size: int
    #: called for a new call only: a request that was valid at its first use (`expiresAt`) may be invalid at a repeat
    build_requests: Callable[[], Sequence[NotifyRequest | ValidationFailed]]
    #: from the result of each request to the response; ValidationFailed rejects the whole call and keeps its key free
    build_response: Callable[[Sequence[AcceptResult]], IdempotentResponse | ValidationFailed]


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One parsed line of a batch: a request body, or why the line is invalid."""

    number: int
    body: NotifyBody | ValidationFailed


def for_single(body: NotifyBody, keyed: IdempotentRequest | None, clock: Clock) -> AcceptCall:
    """Return the call that accepts one notification. An invalid request rejects the call."""

    def build_response(results: Sequence[AcceptResult]) -> IdempotentResponse | ValidationFailed:
        (result,) = results
        if isinstance(result, ValidationFailed):
            return with_caller_field_names(body, result)
        return _json_response(202, _accepted_json(result))

    return AcceptCall(keyed, 1, lambda: [_build_request(body, clock)], build_response)


def for_batch(lines: Sequence[BatchLine], keyed: IdempotentRequest | None, clock: Clock) -> AcceptCall:
    """Return the call that accepts one notification per line. Invalid lines are rejected one by one."""

    def build_requests() -> Sequence[NotifyRequest | ValidationFailed]:
        return [
            line.body if isinstance(line.body, ValidationFailed) else _build_request(line.body, clock) for line in lines
        ]

    def build_response(results: Sequence[AcceptResult]) -> IdempotentResponse:
        return _json_response(200, [_line_result(line, result) for line, result in zip(lines, results, strict=True)])

    return AcceptCall(keyed, len(lines), build_requests, build_response)


class GroupCommitAcceptor:
    """Accepts the calls of many callers in shared transactions. An invalid call fails alone."""

    def __init__(self, store: Store, clock: Clock, pipeline: Pipeline, *, exclusive: bool) -> None:
        """exclusive: whether the database allows one writer at a time."""
        acceptor: IdempotentAcceptor[AcceptCall, IdempotentResponse] = IdempotentAcceptor(
            store,
            clock,
            pipeline,
            prepare=_prepare,
            encode=lambda response: (response.status, response.body),
            replay=replay_response,
        )
        self._batcher: MicroBatcher[AcceptCall, IdempotentResponse] = MicroBatcher(
            acceptor.accept,
            workers=CONCURRENT_GROUPS_SINGLE_WRITER if exclusive else CONCURRENT_GROUPS,
            size=lambda call: call.size,
            # the second use of a key replays the stored response of the first, so it must run after it
            exclusive_key=lambda call: call.keyed_request and (call.keyed_request.caller, call.keyed_request.key),
        )

    async def accept(self, call: AcceptCall) -> IdempotentResponse:
        """Return the response once everything that it promises is committed.

        Raises ValidationFailed for an invalid request, or with code `idempotency_key_reused`; Conflict while another
        process runs the first use of the key; BackendError when the database does not respond.
        """
        return await self._batcher(call)


def create_group_commit_acceptor(context: RouteContext) -> GroupCommitAcceptor:
    """Return the acceptor for the routes of one router."""
    exclusive = context.runtime.settings.is_exclusive
    return GroupCommitAcceptor(context.store, context.clock, context.runtime.pipeline, exclusive=exclusive)


async def _prepare(_tx: Transaction, calls: Sequence[AcceptCall]) -> Sequence[PreparedCall[IdempotentResponse]]:
    return [PreparedCall(call.build_requests(), call.build_response) for call in calls]


def _json_response(status: int, body: object) -> IdempotentResponse:
    return IdempotentResponse(status, msgspec.json.encode(body))


def _build_request(body: NotifyBody, clock: Clock) -> NotifyRequest | ValidationFailed:
    try:
        return to_notify_request(body, clock.now())
    except ValidationFailed as error:
        return error


def _line_result(line: BatchLine, result: AcceptResult) -> dict[str, object]:
    if isinstance(result, Notification):
        return {"line": line.number, **_accepted_json(result)}
    error = with_caller_field_names(line.body, result) if isinstance(line.body, NotifyBody) else result
    return ndjson.error_result(line.number, error)


def _accepted_json(notification: Notification) -> dict[str, object]:
    return {"id": notification.id, "status": notification.state.value}
