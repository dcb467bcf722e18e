"""Suite for `ports.store.Outbox`: what is due comes in order, what is not is counted."""

from datetime import datetime, timedelta

from tidings.model.ids import new_id
from tidings.model.priority import Lane
from tidings.model.task import Task, TaskKind
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW, an_id

SECOND = timedelta(seconds=1)


class OutboxContract:
    """Subclass it and give a fixture `store`: an empty store of the adapter."""

    async def test_the_outbox_gives_what_is_due_in_order(self, store: Store) -> None:
        tasks = [
            Task(new_id(NOW), TaskKind.FAN_OUT, new_id(NOW), Lane.LOW, NOW + timedelta(seconds=seconds))
            for seconds in (3, 1, 2)
        ]
        async with store.begin() as tx:
            assert await store.outbox.next_due(tx) is None
            await store.outbox.add(tx, tasks)
            await store.outbox.add(tx, [])
            assert await store.outbox.next_due(tx) == NOW + timedelta(seconds=1)
            assert await store.outbox.due(tx, NOW, 9) == []
            assert await store.outbox.due(tx, NOW + timedelta(seconds=2), 9) == [tasks[1], tasks[2]]
            assert await store.outbox.due(tx, NOW + timedelta(seconds=9), 1) == [tasks[1]]
            await store.outbox.remove(tx, [tasks[1].id, tasks[0].id])
            assert await store.outbox.due(tx, NOW + timedelta(seconds=9), 9) == [tasks[2]]

    async def test_the_outbox_gives_what_is_older_than_asked(self, store: Store) -> None:
        old, new = [self._task(made=NOW + seconds * SECOND, due=NOW) for seconds in (1, 3)]
        async with store.begin() as tx:
            await store.outbox.add(tx, [new, old])
            for seconds, expected in ((1, list[Task]()), (2, [old]), (4, [new, old])):
                due = await store.outbox.due(tx, NOW, 9, made_before=NOW + seconds * SECOND)
                assert {task.id for task in due} == {task.id for task in expected}

    async def test_the_outbox_counts_what_waits_for_a_later_time(self, store: Store) -> None:
        tasks = [
            *(self._task(made=NOW, due=NOW + 9 * SECOND, lane=Lane.LOW) for _ in range(3)),
            self._task(made=NOW, due=NOW + 9 * SECOND, lane=Lane.URGENT),
            self._task(made=NOW, due=NOW, lane=Lane.URGENT),
        ]
        async with store.begin() as tx:
            assert await store.outbox.delayed(tx, NOW, most=9) == {}
            await store.outbox.add(tx, tasks)
            assert await store.outbox.delayed(tx, NOW, most=9) == {Lane.LOW: 3, Lane.URGENT: 1}
            assert sum((await store.outbox.delayed(tx, NOW, most=2)).values()) == 2
            assert await store.outbox.delayed(tx, NOW + 9 * SECOND, most=9) == {}

    def _task(self, *, made: datetime, due: datetime, lane: Lane = Lane.LOW) -> Task:
        return Task(an_id(made), TaskKind.FAN_OUT, new_id(NOW), lane, due)
