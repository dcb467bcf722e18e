"""The shared presence with a way out: while it is away a process goes on with its members, then tells them again."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from tidings.errors import BackendError
from tidings.ports.clock import Clock
from tidings.ports.presence import Vacancy
from tidings.presence.local import Grace, LocalPresence, Sign
from tidings.presence.redis import RedisPresence
from tidings.presence.redis_commands import Call, left, seen, settled

log = structlog.get_logger(__name__)

#: seconds between two looks whether the shared presence is back
PROBE_EVERY = 1.0
#: a member that is never there; names no connection
STAND_IN = "tidings:stand-in"

#: room and member
_Key = tuple[str, str]


class FallbackPresence:
    """Implements `ports.presence.Presence` over a shared presence that may be away.

    What this process says is kept inside it too. While the shared presence is away that is all it knows: it counts its
    own members, and gives the vacancies of rooms that none of them is in. Other processes may then give the same ones.
    A server that forgot everything without going away is treated alike: what it should know is told again.
    """

    def __init__(self, shared: RedisPresence, clock: Clock, *, probe_every: float = PROBE_EVERY) -> None:
        """clock: tells the time when what was missed is told; probe_every: seconds between two looks if it is back."""
        self._shared = shared
        self._clock = clock
        self._probe_every = probe_every
        self._own = LocalPresence()
        #: what the shared presence knew of our members when it was lost
        self._told: dict[_Key, Sign] = {}
        self._away = False
        self._probe: asyncio.Task[None] | None = None
        #: of the shared presence, as last heard; None = not yet
        self._generation: str | None = None
        #: whether nothing was taken since the shared presence is back
        self._just_back = False

    @property
    def away(self) -> bool:
        """Whether the shared presence did not answer and is being looked for."""
        return self._away

    async def seen(self, room: str, member: str, *, until: datetime, grace: timedelta, now: datetime) -> None:
        await self._own.seen(room, member, until=until, grace=grace, now=now)
        if not self._away:
            with self._losing():
                await self._shared.seen(room, member, until=until, grace=grace, now=now)
                self._check_memory()

    async def left(self, room: str, member: str, *, now: datetime) -> None:
        others = False
        try:
            if not self._away:
                with self._losing():
                    others = await self._shared.took_out(room, member, now=now)
                    self._check_memory()
        finally:
            # after it was said: what got lost on the way is then told again as one who is gone
            await self._own.left(room, member, now=now)
        if others:
            # should the shared presence go away, this is none of our vacancies
            self._own.forget(room)

    async def members(self, room: str, now: datetime) -> int:
        """Of this process alone while the shared presence is away."""
        if not self._away:
            with self._losing():
                return await self._shared.members(room, now)
        return await self._own.members(room, now)

    async def total(self, now: datetime) -> int:
        """Of this process alone while the shared presence is away."""
        if not self._away:
            with self._losing():
                return await self._shared.total(now)
        return await self._own.total(now)

    async def vacated(self, now: datetime, limit: int) -> Sequence[Vacancy]:
        if not self._away:
            with self._losing():
                return await self._shared_vacancies(now, limit)
        return await self._own.vacated(now, limit)

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        await self._shared.close()

    async def _shared_vacancies(self, now: datetime, limit: int) -> Sequence[Vacancy]:
        given = await self._shared.vacated(now, limit)
        if self._just_back:
            # one that was given while its answer did not arrive, and then here
            given = [vacancy for vacancy in given if vacancy.epoch > self._own.last_epoch(vacancy.room)]
            self._just_back = False
        for vacancy in given:
            self._own.settle(vacancy.room, vacancy.epoch)
        with self._losing():
            self._check_memory()
        if self._away:
            return [*given, *await self._own.vacated(now, limit - len(given))]
        if len(given) < limit:
            # what is due here was due there, and somebody took it or somebody came back
            await self._own.vacated(now, limit)
        return given

    def _check_memory(self) -> None:
        """Raise BackendError if the shared presence forgot everything since it was heard before."""
        before, self._generation = self._generation, self._shared.generation
        if before not in (None, self._generation):
            raise BackendError("the presence forgot everything")

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """Note when the shared presence does not answer; what stands after the block is done instead."""
        try:
            yield
        except BackendError as error:
            if not self._away:
                log.warning("presence_away", problem=error.message)
                self._away = True
                self._told |= self._signs()
                self._probe = asyncio.create_task(self._come_back())

    async def _come_back(self) -> None:
        told, graces = await self._all_told()
        # what happened meanwhile is put in line here, and whatever is said from now on comes after it
        telling = self._shared.say(self._missed(told, graces))
        self._away, self._just_back, self._generation = False, True, None
        log.info("presence_back")
        with self._losing():
            await telling
            if not self._away:
                self._told = {}

    async def _all_told(self) -> tuple[Mapping[_Key, Sign], Sequence[Grace]]:
        """Wait until it answers, then tell everything, as it may have forgotten everything. Returns what was told."""
        while True:
            await asyncio.sleep(self._probe_every)
            with contextlib.suppress(BackendError):
                await self._shared.ping()
                missed = self._missed({}, ())
                signs, graces = self._signs(), self._own.graces()
                # should this fail halfway, some of it is known there
                self._told |= signs
                await self._shared.say(missed)
                return signs, graces

    def _missed(self, told: Mapping[_Key, Sign], told_graces: Collection[Grace]) -> list[Call]:
        """Return what is to be said to one that knows so much."""
        signs = self._signs()
        calls = self._of_gone(self._told.keys() - signs.keys())
        calls += [call for grace in self._own.graces() if grace not in told_graces for call in _stand_in(grace)]
        calls += [
            seen(one.room, one.member, until=one.until, grace=one.grace, now=one.now)
            for key, one in signs.items()
            if told.get(key) != one
        ]
        return calls

    def _of_gone(self, gone: Collection[_Key]) -> list[Call]:
        """Return what to say of members who are not there any more."""
        rooms: dict[str, list[str]] = defaultdict(list)
        for room, member in gone:
            rooms[room].append(member)
        now = self._clock.now()
        emptied = {grace.room: grace.emptied for grace in self._own.graces()}
        calls: list[Call] = []
        for room, members in rooms.items():
            if self._own.knows(room):
                calls += [left(room, member, now=emptied.get(room, now)) for member in members]
            else:
                calls.append(settled(room, members, self._own.last_epoch(room), now=now))
        return calls

    def _signs(self) -> dict[_Key, Sign]:
        return {(sign.room, sign.member): sign for sign in self._own.signs()}


def _stand_in(grace: Grace) -> Sequence[Call]:
    """Return what begins a grace that the shared presence may know nothing of."""
    then = grace.emptied
    return (
        seen(grace.room, STAND_IN, until=then, grace=grace.grace, now=then),
        left(grace.room, STAND_IN, now=then),
    )
