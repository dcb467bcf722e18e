"""Suite for `ports.operations.Processes`: heartbeats of the running processes."""

from dataclasses import replace
from datetime import datetime, timedelta

from tidings.model.ids import new_id
from tidings.ports.operations import Process
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW

LATER = NOW + timedelta(seconds=5)


def make_process(kind: str = "worker", *, at: datetime = NOW) -> Process:
    """Return a process whose start and last heartbeat are at an instant."""
    return Process(new_id(at), kind, "host-1", 4711, at, at, {"inFlight": 3, "lanes": {"urgent": 0}, "draining": False})


async def send_heartbeats(store: Store, *those: Process) -> None:
    """Record heartbeats of processes."""
    async with store.transaction() as tx:
        for one in those:
            await store.processes.heartbeat(tx, one)


async def list_alive(store: Store, since: datetime = NOW) -> list[Process]:
    """Return the processes with a heartbeat since an instant."""
    async with store.read_snapshot() as tx:
        return list(await store.processes.list_alive(tx, since))


class ProcessesContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_heartbeat_reads_back_as_it_was_said(self, store: Store) -> None:
        await send_heartbeats(store, process := make_process())
        assert await list_alive(store) == [process]

    async def test_the_last_heartbeat_counts(self, store: Store) -> None:
        first = make_process()
        later = replace(first, seen_at=LATER, detail={"inFlight": 0})
        await send_heartbeats(store, first)
        await send_heartbeats(store, later)
        assert await list_alive(store) == [later]

    async def test_processes_are_listed_in_the_order_they_started(self, store: Store) -> None:
        late, early = make_process("worker", at=LATER), make_process("api")
        await send_heartbeats(store, late, early)
        assert await list_alive(store) == [early, late]

    async def test_who_has_been_silent_is_left_out(self, store: Store) -> None:
        silent, alive = make_process(), make_process(at=LATER)
        await send_heartbeats(store, silent, alive)
        assert await list_alive(store, LATER) == [alive]
        assert await list_alive(store, LATER + timedelta(seconds=1)) == []

    async def test_who_left_in_order_is_gone_at_once(self, store: Store) -> None:
        leaving, staying = make_process(), make_process()
        await send_heartbeats(store, leaving, staying)
        async with store.transaction() as tx:
            await store.processes.deregister(tx, leaving.id)
            await store.processes.deregister(tx, leaving.id)
        assert await list_alive(store) == [staying]

    async def test_those_not_seen_for_long_are_forgotten(self, store: Store) -> None:
        old, alive = make_process(), make_process(at=LATER)
        await send_heartbeats(store, old, alive)
        async with store.transaction() as tx:
            assert await store.processes.purge(tx, NOW) == 0
            assert await store.processes.purge(tx, LATER) == 1
        assert await list_alive(store) == [alive]
