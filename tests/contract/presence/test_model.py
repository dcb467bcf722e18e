"""Joins, beats, leaves, looks, dying nodes and jumping clocks in any order: every adapter does what a tiny model says.

The model is the rules of `ports.presence` written down naively: it goes through everybody each time.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tidings.ports.presence import Presence, Vacancy
from tidings.presence.fallback import FallbackPresence
from tidings.presence.local import LocalPresence
from tidings.presence.redis import RedisPresence
from tidings.redis_link import RedisLink
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.presence_contract import GRACE, LIFE, MANY, SECOND
from tidings.testing.contracts.samples import NOW
from tidings.testing.valkey import ValkeyServer

_T = TypeVar("_T")

NODES = (0, 1)
ROOMS = ("jazz", "folk")
PEOPLE = ("ana", "ben")
MINUTE = timedelta(minutes=1)
JUMPS = tuple(sign * by for by in (timedelta(hours=1), timedelta(days=1)) for sign in (1, -1))
#: a clock that was set back less than a minute is not noticed, so everything may take as much longer
AT_LAST = LIFE + GRACE + MINUTE

rooms, nodes = st.sampled_from(ROOMS), st.sampled_from(NODES)
members = st.builds("{}{}".format, st.sampled_from(PEOPLE), nodes)


@dataclass
class Model:
    """Who was seen in which room, and which rooms are empty."""

    #: (room, member) → seen at, until
    signs: dict[tuple[str, str], tuple[datetime, datetime]] = field(default_factory=dict)
    #: room → noticed at, and the last sign of life
    empty: dict[str, datetime] = field(default_factory=dict)
    since: dict[str, datetime] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)

    def seen(self, room: str, member: str, now: datetime) -> None:
        self.signs[room, member] = now, now + LIFE
        self.since[room] = now
        self.empty.pop(room, None)

    def left(self, room: str, member: str, now: datetime) -> None:
        if (room, member) in self.signs:
            self.since[room] = now
            self._out(room, member, now)

    def members(self, room: str, now: datetime) -> int:
        return sum(until > now for (name, _), (_, until) in self.signs.items() if name == room)

    def vacated(self, now: datetime) -> set[Vacancy]:
        self._mend(now)
        for room, member in [key for key, (_, until) in self.signs.items() if until <= now]:
            self._out(room, member, now)
        given = set()
        for room in [room for room, noticed in self.empty.items() if noticed + GRACE <= now]:
            since = self.since.pop(room)
            self.epochs[room] = max(int(since.timestamp() * 1000), self.epochs.get(room, 0) + 1)
            given.add(Vacancy(room, since, self.epochs[room]))
            del self.empty[room]
        return given

    def _out(self, room: str, member: str, now: datetime) -> None:
        del self.signs[room, member]
        if not any(name == room for name, _ in self.signs):
            self._begin_grace(room, now)

    def _begin_grace(self, room: str, now: datetime) -> None:
        self.empty[room] = now
        self.since[room] = min(self.since[room], now)

    def _mend(self, now: datetime) -> None:
        ahead = now + MINUTE
        for key, (at, until) in self.signs.items():
            if at > ahead:
                self.signs[key] = now, now + (until - at)
        for room in [room for room, noticed in self.empty.items() if noticed > ahead]:
            self._begin_grace(room, now)


class PresenceMachine(RuleBasedStateMachine):
    """Does everything to the model and to two nodes of an adapter, and compares."""

    opened: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.nodes: list[Presence] = self.run(self.opened())
        self.now = NOW
        self.model = Model()
        self.there: dict[int, set[tuple[str, str]]] = {node: set() for node in NODES}
        self.given: list[Vacancy] = []
        #: rooms that somebody joined since their last vacancy
        self.open: set[str] = set()

    def run(self, call: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run(call)

    @rule(room=rooms, member=members)
    def join(self, room: str, member: str) -> None:
        node = int(member[-1])
        self.there[node].add((room, member))
        self._see(node, room, member)

    @rule(node=nodes)
    def beat(self, node: int) -> None:
        for room, member in sorted(self.there[node]):
            self._see(node, room, member)

    @rule(room=rooms, member=members)
    def leave(self, room: str, member: str) -> None:
        node = int(member[-1])
        self.there[node].discard((room, member))
        self.model.left(room, member, self.now)
        self.run(self.nodes[node].left(room, member, now=self.now))

    @rule(node=nodes)
    def kill(self, node: int) -> None:
        self.there[node].clear()

    @rule(by=st.sampled_from((1, 5, 10, 15, 29, 30, 31, 50, 120)), node=nodes, looks=st.booleans())
    def pass_time(self, by: int, node: int, looks: bool) -> None:
        self.now += by * SECOND
        if looks:
            self.look(node)

    @rule(by=st.sampled_from(JUMPS))
    def jump(self, by: timedelta) -> None:
        self.now += by

    @rule(node=nodes)
    def look(self, node: int) -> None:
        taken = self.run(self.nodes[node].vacated(self.now, MANY))
        assert set(taken) == self.model.vacated(self.now)
        assert not self.open & {room for room in ROOMS if self._somebody_is_in(room)} & {one.room for one in taken}
        self.open -= {vacancy.room for vacancy in taken}
        self.given += taken

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        for node in self.nodes:
            counted = {room: self.run(node.members(room, self.now)) for room in ROOMS}
            assert counted == {room: self.model.members(room, self.now) for room in ROOMS}
            assert self.run(node.total(self.now)) == sum(counted.values())

    @invariant()
    def no_epoch_of_a_room_is_given_twice(self) -> None:
        assert len({(vacancy.room, vacancy.epoch) for vacancy in self.given}) == len(self.given)

    def teardown(self) -> None:
        try:
            # all nodes die: whatever the clocks did, every room that anybody joined is given now
            start = self.now
            while self.now <= start + AT_LAST:
                self.look(0)
                self.now += SECOND
            assert self.open == set()
            assert self.run(self.nodes[0].total(self.now)) == 0
        finally:
            for node in self.nodes:
                self.run(node.close())
            self.loop.close()

    def _see(self, node: int, room: str, member: str) -> None:
        self.open.add(room)
        self.model.seen(room, member, self.now)
        self.run(self.nodes[node].seen(room, member, until=self.now + LIFE, grace=GRACE, now=self.now))

    def _somebody_is_in(self, room: str) -> bool:
        return self.model.members(room, self.now) > 0


def check(machine: type[PresenceMachine]) -> None:
    options = settings(
        max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(machine, settings=options)


@pytest.fixture(autouse=True)
def _the_server_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of calls on a busy machine: one that is late must not look like a server that is away."""
    monkeypatch.setattr("tidings.presence.redis.PROMPT", 30.0)


def test_local_does_what_the_model_says() -> None:
    async def opened() -> list[Presence]:
        return [LocalPresence()] * 2

    check(type("Local", (PresenceMachine,), {"opened": staticmethod(opened)}))


def test_redis_does_what_the_model_says(valkey: ValkeyServer) -> None:
    async def opened() -> list[Presence]:
        valkey.flush()
        return [RedisPresence(RedisLink(valkey.url), "test") for _ in NODES]

    check(type("Redis", (PresenceMachine,), {"opened": staticmethod(opened)}))


def test_fallback_does_what_the_model_says_while_its_server_is_there(valkey: ValkeyServer) -> None:
    async def opened() -> list[Presence]:
        valkey.flush()
        return [FallbackPresence(RedisPresence(RedisLink(valkey.url), "test"), FrozenClock()) for _ in NODES]

    check(type("Fallback", (PresenceMachine,), {"opened": staticmethod(opened)}))
