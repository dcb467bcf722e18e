"""Accepting in groups: many callers' notifications, their keys and their answers in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import msgspec

from tidings.api.host import ApiHost
from tidings.api.idempotency import Answer, again
from tidings.api.wanted import Wanted
from tidings.errors import Conflict, Invalid, TidingsError
from tidings.flow.intake.groups import Groups
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction

#: groups at the same time: SQLite has one writer; elsewhere a second goes on while the first waits for a lock. More of
#: them are smaller ones: against PostgreSQL, four cost a fifth more CPU per request than one
RUNNING_ALONE, RUNNING_SHARED = 1, 2


class AcceptsMany(Protocol):
    """The pipeline, as far as groups need it."""

    async def accept_many(
        self, tx: Transaction, requests: Sequence[NotifyRequest]
    ) -> Sequence[Notification | Invalid]: ...


class Together:
    """Accepts for many callers at once. Bad requests fail alone."""

    def __init__(self, store: Store, clock: Clock, pipeline: AcceptsMany, *, exclusive: bool) -> None:
        """Take the parts. exclusive: the database takes one writer at a time."""
        self._store = store
        self._clock = clock
        self._pipeline = pipeline
        self._groups: Groups[Wanted, Answer] = Groups(
            self._accept,
            running=RUNNING_ALONE if exclusive else RUNNING_SHARED,
            size=lambda wanted: wanted.size,
            # the second use of a key is answered from what the first one left, so it must come after it
            apart=lambda wanted: wanted.keyed and (wanted.keyed.caller, wanted.keyed.key),
        )

    async def accept(self, wanted: Wanted) -> Answer:
        """Return the answer once everything it promises is committed.

        Raises Invalid as the request's own check does, or with code `idempotency_key_reused`; Conflict while another
        process runs the first use of the key; BackendError when the database does not answer.
        """
        return await self._groups(wanted)

    async def _accept(self, calls: Sequence[Wanted]) -> Sequence[Answer | TidingsError]:
        """Run a group. A request that is refused after its key was taken must leave it free, as nothing happened:
        then all is rolled back, and done again without those refused.
        """
        refused: dict[int, Invalid] = {}
        while True:
            left = {place: wanted for place, wanted in enumerate(calls) if place not in refused}
            try:
                async with self._store.begin() as tx:
                    outcomes = dict(zip(left, await self._attempt(tx, list(left.values())), strict=True))
                    wrong = {place: one.error for place, one in outcomes.items() if isinstance(one, _Refused)}
                    if any(calls[place].keyed for place in wrong):
                        raise _Undo
            except _Undo:
                refused |= wrong
                continue
            done = {place: one for place, one in outcomes.items() if not isinstance(one, _Refused)}
            found = {**done, **wrong, **refused}
            return [found[place] for place in range(len(calls))]

    async def _attempt(self, tx: Transaction, calls: Sequence[Wanted]) -> Sequence["Answer | TidingsError | _Refused"]:
        firsts = await self._reserve(tx, calls)
        fresh = [wanted for wanted, first in zip(calls, firsts, strict=True) if first is None]
        made = iter(await self._make(tx, fresh))
        outcomes = [next(made) if first is None else first for first in firsts]
        answers = [
            (wanted.keyed, one.status, one.body)
            for wanted, one, first in zip(calls, outcomes, firsts, strict=True)
            if wanted.keyed and first is None and isinstance(one, Answer)
        ]
        if answers:
            await self._store.idempotency.answer_many(tx, answers)
        return outcomes

    async def _reserve(self, tx: Transaction, calls: Sequence[Wanted]) -> Sequence[Answer | TidingsError | None]:
        """Take the keys. Returns, in order, what the first use of a key left; None for what is to be done."""
        keyed = [wanted.keyed for wanted in calls if wanted.keyed]
        taken = iter(await self._store.idempotency.reserve_many(tx, keyed, self._clock.now()) if keyed else ())
        firsts: list[Answer | TidingsError | None] = []
        for wanted in calls:
            first = next(taken) if wanted.keyed else None
            try:
                firsts.append(again(first, wanted.keyed.request_digest) if first and wanted.keyed else None)
            except (Invalid, Conflict) as error:
                firsts.append(error)
        return firsts

    async def _make(self, tx: Transaction, calls: Sequence[Wanted]) -> Sequence["Answer | _Refused"]:
        asked = [wanted.requests() for wanted in calls]
        sound = [one for requests in asked for one in requests if not isinstance(one, Invalid)]
        made = iter(await self._pipeline.accept_many(tx, sound) if sound else ())
        results: list[Answer | _Refused] = []
        for wanted, requests in zip(calls, asked, strict=True):
            said = wanted.answer([one if isinstance(one, Invalid) else next(made) for one in requests])
            if isinstance(said, Invalid):
                results.append(_Refused(said))
            else:
                results.append(Answer(said[0], msgspec.json.encode(said[1])))
        return results


def together_of(host: ApiHost) -> Together:
    """Return what accepts for the routes of a server."""
    exclusive = host.runtime.settings.sqlite_path is not None
    return Together(host.store, host.clock, cast(AcceptsMany, host.runtime.pipeline), exclusive=exclusive)


@dataclass(frozen=True, slots=True)
class _Refused:
    """Not done, and its key not to be kept; an error of the key itself is none of these."""

    error: Invalid


class _Undo(Exception):
    """Leaves the transaction, which rolls it back."""
