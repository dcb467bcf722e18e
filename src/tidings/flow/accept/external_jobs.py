"""Accepts jobs of other services: many parts in one transaction, each at most once.

A queue may deliver a job again, because its worker died after the commit or because Redis lost recent writes. Each part
has an idempotency key, so a redelivered part returns its first result.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from tidings.errors import Conflict, ValidationFailed
from tidings.flow.accept.idempotent_acceptor import AcceptsMany, IdempotentAcceptor, PreparedCall
from tidings.flow.accept.validation import unknown_users_error
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.user import ContactAddress
from tidings.ports.clock import Clock
from tidings.ports.store import IdempotentRequest, Store, StoredResponse, Transaction

#: stored with the key, as the HTTP API does
_STATUS_ACCEPTED = 202
_ADDRESS_LABELS = {"email": "e-mail address", "phone": "phone number"}


@dataclass(frozen=True, slots=True)
class JobPart:
    """One notification of a job, for all of its recipients or a share of them."""

    #: caller and idempotency key; the same for each delivery of the job
    caller: str
    key: str
    #: distinct user ids, or an address that exactly one user must have
    recipients: tuple[str, ...] | ContactAddress
    #: ids of the existing users → request. Called for a new part only, as a value that was valid then (`expiresAt`) may
    #: be invalid for a repeat. Raises ValidationFailed.
    build_request: Callable[[Sequence[str]], NotifyRequest]
    #: True: a part without existing users succeeds and sends nothing. False: it is refused
    can_be_empty: bool = False

    @property
    def keyed_request(self) -> IdempotentRequest:
        """The key of the part. It has no request fingerprint: a queue never uses the key for another request."""
        return IdempotentRequest(self.caller, self.key, "")


class AcceptedPart(msgspec.Struct, frozen=True):
    """The result of a part, stored with its key."""

    #: id of the notification; None = no recipient exists
    id: str | None
    #: number of recipients
    users: int
    #: ids of users that do not exist
    unknown: tuple[str, ...] = ()
    #: number of processed ids; the next part of the job begins after them
    taken: int = 1


class ExternalJobAcceptor:
    """Accepts parts of jobs."""

    def __init__(self, store: Store, clock: Clock, pipeline: AcceptsMany) -> None:
        self._store = store
        self._acceptor: IdempotentAcceptor[JobPart, AcceptedPart] = IdempotentAcceptor(
            store, clock, pipeline, prepare=self._prepare, encode=_encode, replay=_replay
        )

    async def accept(self, parts: Sequence[JobPart]) -> Sequence[AcceptedPart | ValidationFailed | Conflict]:
        """Accept parts and return a result for each, in order, after the commit.

        ValidationFailed: the part is refused and its key stays free. Conflict: another worker is accepting the same
        part. Raises BackendError if the database fails; then nothing is stored.
        """
        return await self._acceptor.accept(parts)

    async def _prepare(
        self, tx: Transaction, parts: Sequence[JobPart]
    ) -> Sequence[PreparedCall[AcceptedPart] | ValidationFailed]:
        addresses = [part.recipients for part in parts if isinstance(part.recipients, ContactAddress)]
        user_ids = [
            user_id for part in parts if not isinstance(part.recipients, ContactAddress) for user_id in part.recipients
        ]
        holders = await self._store.users.find_by_address(tx, addresses) if addresses else {}
        missing = set(await self._store.users.missing_ids(tx, user_ids)) if user_ids else set()
        return [_prepare_part(part, holders, missing) for part in parts]


def _prepare_part(
    part: JobPart, holders: Mapping[ContactAddress, tuple[str, int]], missing: Collection[str]
) -> PreparedCall[AcceptedPart] | ValidationFailed:
    try:
        ids = (
            (_user_by_address(part.recipients, holders),)
            if isinstance(part.recipients, ContactAddress)
            else part.recipients
        )
        known = [user_id for user_id in ids if user_id not in missing]
        unknown = tuple(user_id for user_id in ids if user_id in missing)
        if not known and not part.can_be_empty:
            return unknown_users_error(unknown)
        return PreparedCall(
            [part.build_request(known)] if known else [], partial(_to_accepted_part, len(known), unknown)
        )
    except ValidationFailed as error:
        return error


def _user_by_address(address: ContactAddress, holders: Mapping[ContactAddress, tuple[str, int]]) -> str:
    """Return the only user with an address. Raises ValidationFailed if no user has it, or several."""
    user_id, count = holders.get(address, ("", 0))
    if count == 1:
        return user_id
    label = f"the {_ADDRESS_LABELS[address.kind]} {address.value}"
    if count == 0:
        raise ValidationFailed.for_field(
            "to", f"no user has {label}; PUT /api/users/ID with it first, or set userId", code="unknown_user"
        )
    raise ValidationFailed.for_field(
        "to", f"{count} users have {label}; set userId to select one", code="ambiguous_user"
    )


def _to_accepted_part(
    known: int, unknown: tuple[str, ...], results: Sequence[Notification | ValidationFailed]
) -> AcceptedPart | ValidationFailed:
    result = results[0] if results else None
    if isinstance(result, ValidationFailed):
        return result
    return AcceptedPart(result.id if result else None, users=known, unknown=unknown, taken=known + len(unknown))


def _encode(accepted: AcceptedPart) -> tuple[int, bytes]:
    return _STATUS_ACCEPTED, msgspec.json.encode(accepted)


def _replay(first: StoredResponse, _digest: str) -> AcceptedPart:
    if first.status is None:
        raise Conflict("the same job is being accepted by another worker")
    return msgspec.json.decode(first.body, type=AcceptedPart)
