"""Accept what jobs from outside ask for: many parts in one transaction, each at most once however often it is told.

The key of a part, the notification and what came of it are committed together. A queue that hands a job out again (its
worker died after the commit, Redis came back with an older state) meets the key.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from tidings.errors import Conflict, Invalid
from tidings.flow.intake.accept import unknown_users
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.model.user import Address
from tidings.ports.clock import Clock
from tidings.ports.store import FirstAnswer, KeyedRequest, Store, Transaction

#: kept with a key, as the HTTP API keeps its own
_DONE = 202
_KINDS = {"email": "e-mail address", "phone": "phone number"}


class AcceptsMany(Protocol):
    """The pipeline, as far as it is needed here."""

    async def accept_many(
        self, tx: Transaction, requests: Sequence[NotifyRequest]
    ) -> Sequence[Notification | Invalid]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """One notification of a job: all of it, or some of many users."""

    #: who asks, and the name of the part; the same each time the job is handed out
    caller: str
    key: str
    #: ids of users, each once; or an address that exactly one user must have
    whom: tuple[str, ...] | Address
    #: from the users who exist to the request; called when the part is new, not when it is repeated: what was right
    #: the first time (`expiresAt`) may not be any more. Raises Invalid.
    request: Callable[[Sequence[str]], NotifyRequest]
    #: a part of which nobody exists is done, and tells nobody; otherwise it is refused
    may_be_empty: bool = False


class Accepted(msgspec.Struct, frozen=True):
    """What came of a part; kept with its key."""

    #: of the notification; None = nobody to tell
    id: str | None
    #: users who are told
    users: int
    #: ids that no user has
    unknown: tuple[str, ...] = ()
    #: how many of the ids given it dealt with: the next part of the job begins after them
    taken: int = 1


class Parts:
    """Accepts parts of jobs."""

    def __init__(self, store: Store, clock: Clock, pipeline: AcceptsMany) -> None:
        self._store = store
        self._clock = clock
        self._pipeline = pipeline

    async def accept(self, parts: Sequence[Part]) -> Sequence[Accepted | Invalid | Conflict]:
        """Return, in order, what came of each part, once all that is promised is committed.

        Invalid: refused, and its key is free. Conflict: the same part is being accepted at this moment. Raises
        BackendError when the database does not answer; then nothing happened.
        """
        refused: dict[int, Invalid] = {}
        while True:
            left = {place: part for place, part in enumerate(parts) if place not in refused}
            try:
                async with self._store.begin() as tx:
                    found = dict(zip(left, await self._attempt(tx, list(left.values())), strict=True))
                    wrong = {place: one for place, one in found.items() if isinstance(one, Invalid)}
                    if wrong:
                        raise _Undo
            except _Undo:
                # nothing of them happened, so their keys must not stay either; the others once more without them
                refused |= wrong
                if len(refused) < len(parts):
                    continue
                found = {}
            return [refused[place] if place in refused else found[place] for place in range(len(parts))]

    async def _attempt(self, tx: Transaction, parts: Sequence[Part]) -> Sequence[Accepted | Invalid | Conflict]:
        keyed = [KeyedRequest(part.caller, part.key, "") for part in parts]
        firsts = await self._store.idempotency.reserve_many(tx, keyed, self._clock.now())
        fresh = [part for part, first in zip(parts, firsts, strict=True) if first is None]
        made = iter(await self._make(tx, fresh) if fresh else ())
        found = [next(made) if first is None else _again(first) for first in firsts]
        await self._store.idempotency.answer_many(
            tx,
            [
                (key, _DONE, msgspec.json.encode(one))
                for key, one, first in zip(keyed, found, firsts, strict=True)
                if first is None and isinstance(one, Accepted)
            ],
        )
        return found

    async def _make(self, tx: Transaction, parts: Sequence[Part]) -> Sequence[Accepted | Invalid]:
        addresses = [part.whom for part in parts if isinstance(part.whom, Address)]
        named = [user_id for part in parts if not isinstance(part.whom, Address) for user_id in part.whom]
        holders = await self._store.users.holders(tx, addresses) if addresses else {}
        missing = set(await self._store.users.unknown(tx, named)) if named else set()
        ready = [_ready(part, holders, missing) for part in parts]
        requests = [one.request for one in ready if isinstance(one, _Ready) and one.request is not None]
        made = iter(await self._pipeline.accept_many(tx, requests) if requests else ())
        return [
            one if isinstance(one, Invalid) else _accepted(one, next(made) if one.request else None) for one in ready
        ]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A part whose users were looked up."""

    known: Sequence[str]
    unknown: tuple[str, ...]
    #: None: there is nobody to tell
    request: NotifyRequest | None


def _ready(part: Part, holders: Mapping[Address, tuple[str, int]], missing: Collection[str]) -> _Ready | Invalid:
    try:
        ids = (_holder(part.whom, holders),) if isinstance(part.whom, Address) else part.whom
        known = [user_id for user_id in ids if user_id not in missing]
        unknown = tuple(user_id for user_id in ids if user_id in missing)
        if not known and not part.may_be_empty:
            return unknown_users(unknown)
        return _Ready(known, unknown, part.request(known) if known else None)
    except Invalid as error:
        return error


def _holder(address: Address, holders: Mapping[Address, tuple[str, int]]) -> str:
    """Return the one user who has an address. Raises Invalid when nobody has it, or several."""
    user_id, count = holders.get(address, ("", 0))
    if count == 1:
        return user_id
    what = f"the {_KINDS[address.kind]} {address.value}"
    if count == 0:
        raise Invalid.field(
            "to", f"no user has {what}; PUT /api/users/ID with it first, or name one in userId", code="unknown_user"
        )
    raise Invalid.field("to", f"{count} users have {what}; name the one who is meant in userId", code="ambiguous_user")


def _accepted(ready: _Ready, made: Notification | Invalid | None) -> Accepted | Invalid:
    if isinstance(made, Invalid):
        return made
    return Accepted(
        id=made.id if made else None,
        users=len(ready.known),
        unknown=ready.unknown,
        taken=len(ready.known) + len(ready.unknown),
    )


def _again(first: FirstAnswer) -> Accepted | Conflict:
    if first.status is None:
        return Conflict("the same job is being accepted by another worker")
    return msgspec.json.decode(first.body, type=Accepted)


class _Undo(Exception):
    """Leaves the transaction, which rolls it back."""
