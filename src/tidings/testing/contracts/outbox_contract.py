"""Suite for `ports.store.Outbox`: due rows in order, and counts of those not yet due."""

from datetime import datetime, timedelta

from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW, make_id_at

SECOND = timedelta(seconds=1)


class OutboxContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_the_outbox_gives_what_is_due_in_order(self, store: Store) -> None:
        tasks = [
            Task(new_id(NOW), TaskKind.FAN_OUT, new_id(NOW), Lane.LOW, NOW + timedelta(seconds=seconds))
            for seconds in (3, 1, 2)
        ]
        async with store.transaction() as tx:
            assert await store.outbox.next_due_at(tx) is None
            await store.outbox.add(tx, tasks)
            await store.outbox.add(tx, [])
            assert await store.outbox.next_due_at(tx) == NOW + timedelta(seconds=1)
            assert await store.outbox.list_due(tx, NOW, 9) == []
            assert await store.outbox.list_due(tx, NOW + timedelta(seconds=2), 9) == [tasks[1], tasks[2]]
            assert await store.outbox.list_due(tx, NOW + timedelta(seconds=9), 1) == [tasks[1]]
            await store.outbox.remove(tx, [tasks[1].id, tasks[0].id])
            assert await store.outbox.list_due(tx, NOW + timedelta(seconds=9), 9) == [tasks[2]]

    async def test_the_outbox_gives_what_is_older_than_asked(self, store: Store) -> None:
        old, new = [self._make_task(created_at=NOW + seconds * SECOND, due_at=NOW) for seconds in (1, 3)]
        async with store.transaction() as tx:
            await store.outbox.add(tx, [new, old])
            for seconds, expected in ((1, list[Task]()), (2, [old]), (4, [new, old])):
                due = await store.outbox.list_due(tx, NOW, 9, created_before=NOW + seconds * SECOND)
                assert {task.id for task in due} == {task.id for task in expected}

    async def test_the_outbox_counts_what_waits_for_a_later_time(self, store: Store) -> None:
        tasks = [
            *(self._make_task(created_at=NOW, due_at=NOW + 9 * SECOND, lane=Lane.LOW) for _ in range(3)),
            self._make_task(created_at=NOW, due_at=NOW + 9 * SECOND, lane=Lane.URGENT),
            self._make_task(created_at=NOW, due_at=NOW, lane=Lane.URGENT),
        ]
        async with store.transaction() as tx:
            assert await store.outbox.count_delayed(tx, NOW, limit=9) == {}
            await store.outbox.add(tx, tasks)
            assert await store.outbox.count_delayed(tx, NOW, limit=9) == {Lane.LOW: 3, Lane.URGENT: 1}
            assert sum((await store.outbox.count_delayed(tx, NOW, limit=2)).values()) == 2
            assert await store.outbox.count_delayed(tx, NOW + 9 * SECOND, limit=9) == {}

    def _make_task(self, *, created_at: datetime, due_at: datetime, lane: Lane = Lane.LOW) -> Task:
        return Task(make_id_at(created_at), TaskKind.FAN_OUT, new_id(NOW), lane, due_at)
