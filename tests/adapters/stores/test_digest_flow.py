"""Digests over the real flow on PostgreSQL: processes that accept, cancel and close at the same time."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.conftest import NEWS, FakeChannel, Process

from tidings.errors import Conflict
from tidings.flow.catalog import Catalog
from tidings.model.audience import users
from tidings.model.digest import DigestItemState
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions
from tidings.packs import core
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import run_concurrently

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def processes(postgres_store: SqlStore, clock: FrozenClock) -> list[Process]:
    """Three processes with one queue."""
    catalog = Catalog.from_packs([core.pack, NEWS], channels=("webpush",), known_channels=("webpush",))
    first = Process(postgres_store, clock, catalog, FakeChannel())
    others = [Process(postgres_store, clock, catalog, first.channel, queue=first.queue) for _ in range(2)]
    await first.add_users("ana")
    return [first, *others]


async def trigger(process: Process, title: str = "Hello") -> Notification:
    request = process.build_request(users("ana"))
    request = replace(request, variables={"title": title, "body": ""}, digest=DigestOptions(window_seconds=600))
    async with process.store.transaction() as tx:
        [accepted] = await process.pipeline.accept_many(tx, [request])
    assert isinstance(accepted, Notification)
    return accepted


async def test_m19_updates_accepted_at_once_become_one_message(processes: list[Process]) -> None:
    first, *_ = processes
    calls = [trigger(processes[number % 3], f"Update {number}") for number in range(10)]
    await run_concurrently(first.store, *calls)
    first.clock.advance(10 * MINUTE)
    closed = await run_concurrently(first.store, *(one.pipeline.close_due_digests() for one in processes))
    assert sum(closed) == 1
    await first.process_queue()
    [message] = first.channel.sent
    title, _, body = message.payload.decode().partition(": ")
    assert title == "10 updates"
    assert sorted(body.splitlines()) == [f"Update {number}" for number in range(10)]


async def test_c23_a_cancellation_takes_the_item_out_or_is_refused(processes: list[Process]) -> None:
    first, second, _ = processes

    async def cancel(notification: Notification) -> bool:
        try:
            await second.pipeline.cancel(notification.id)
        except Conflict:
            return False
        return True

    for _ in range(4):
        notification = await trigger(first)
        first.clock.advance(10 * MINUTE)
        is_cancelled, _ = await run_concurrently(first.store, cancel(notification), first.pipeline.close_due_digests())
        while await first.pipeline.close_due_digests():
            pass
        async with first.store.read_snapshot() as tx:
            [(item, digest)] = await first.store.digests.list_of_notification(
                tx, notification.id, user_id=None, after=None, limit=10
            )
        expected = DigestItemState.LEFT_OUT if is_cancelled else DigestItemState.DIGESTED
        assert (item.state, digest.notification_id is None) == (expected, bool(is_cancelled))
