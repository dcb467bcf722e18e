"""Suite for `ports.operations.Processes`: heartbeats of the running processes."""

from dataclasses import replace
from datetime import datetime, timedelta

from tidings.model.ids import new_id
from tidings.ports.operations import Process
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW

LATER = NOW + timedelta(seconds=5)


def a_process(kind: str = "worker", *, at: datetime = NOW) -> Process:
    """A process that started and said so at an instant."""
    return Process(new_id(at), kind, "host-1", 4711, at, at, {"inFlight": 3, "lanes": {"urgent": 0}, "draining": False})


async def beat(store: Store, *those: Process) -> None:
    """Let processes say that they are alive."""
    async with store.begin() as tx:
        for one in those:
            await store.processes.beat(tx, one)


async def seen(store: Store, since: datetime = NOW) -> list[Process]:
    """Return who was alive since an instant."""
    async with store.read() as tx:
        return list(await store.processes.seen(tx, since))


class ProcessesContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_a_heartbeat_reads_back_as_it_was_said(self, store: Store) -> None:
        await beat(store, process := a_process())
        assert await seen(store) == [process]

    async def test_the_last_heartbeat_counts(self, store: Store) -> None:
        first = a_process()
        later = replace(first, seen_at=LATER, detail={"inFlight": 0})
        await beat(store, first)
        await beat(store, later)
        assert await seen(store) == [later]

    async def test_processes_are_listed_in_the_order_they_started(self, store: Store) -> None:
        late, early = a_process("worker", at=LATER), a_process("api")
        await beat(store, late, early)
        assert await seen(store) == [early, late]

    async def test_who_has_been_silent_is_left_out(self, store: Store) -> None:
        silent, alive = a_process(), a_process(at=LATER)
        await beat(store, silent, alive)
        assert await seen(store, LATER) == [alive]
        assert await seen(store, LATER + timedelta(seconds=1)) == []

    async def test_who_left_in_order_is_gone_at_once(self, store: Store) -> None:
        leaving, staying = a_process(), a_process()
        await beat(store, leaving, staying)
        async with store.begin() as tx:
            await store.processes.leave(tx, leaving.id)
            await store.processes.leave(tx, leaving.id)
        assert await seen(store) == [staying]

    async def test_those_not_seen_for_long_are_forgotten(self, store: Store) -> None:
        old, alive = a_process(), a_process(at=LATER)
        await beat(store, old, alive)
        async with store.begin() as tx:
            assert await store.processes.purge(tx, NOW) == 0
            assert await store.processes.purge(tx, LATER) == 1
        assert await seen(store) == [alive]
