"""The commerce pack on both databases: which notifications are sent, which are superseded, and personal data."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.errors import Conflict, ValidationFailed
from tidings.model.notification import Notification
from tidings.model.user import User
from tidings.observability.personal_data import erase_user
from tidings.packs.commerce import repository, tables
from tidings.packs.commerce.order import Order, OrderStage
from tidings.packs.commerce.payment import PaymentResult
from tidings.packs.commerce.service import CommerceService
from tidings.packs.commerce.stock import StockItem
from tidings.stores.engine import postgres, sqlite
from tidings.testing.clock import FrozenClock

GRACE = timedelta(minutes=2)
FAILED, CAPTURED = (PaymentResult(attempt, "ORD-7", "49.90", "EUR") for attempt in (1, None))


@pytest.fixture(params=["sqlite", "postgresql"])
async def runtime(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AppContainer]:
    """An opened installation with feeds, and the users ana and ben."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDINGS_INAPP__ENABLED", "true")
    database = {} if request.param == "sqlite" else {"database": request.getfixturevalue("postgres_url")}
    settings = Settings(data_dir=tmp_path, **database)
    async with AppContainer.open(settings, clock=clock, role=Role.SERVE) as opened:
        async with opened.store.transaction() as tx:
            await opened.store.users.upsert(tx, [User("ana"), User("ben")], clock.now())
        yield opened


@pytest.fixture
def service(runtime: AppContainer) -> CommerceService:
    return CommerceService(runtime.store, runtime.pipeline, runtime.clock, payment_grace=GRACE)


async def record_stage(
    runtime: AppContainer, service: CommerceService, order_id: str, stage: OrderStage
) -> Sequence[Notification]:
    new = Order(order_id, user_id="ana", order_number=order_id, total="5", currency="EUR")
    async with runtime.store.transaction() as tx:
        match stage:
            case OrderStage.CREATED:
                update = await service.create_order(tx, new, {"widget"})
            case OrderStage.SHIPPED:
                update = await service.ship_order(tx, order_id, carrier=None, tracking_number=None)
            case OrderStage.DELIVERED:
                update = await service.deliver_order(tx, order_id)
    return update.notifications


async def pay(
    runtime: AppContainer, service: CommerceService, payment_id: str, result: PaymentResult
) -> Notification | None:
    async with runtime.store.transaction() as tx:
        _, accepted = await service.record_payment(tx, payment_id, "ana", result)
    return accepted


async def plan(runtime: AppContainer, accepted: Sequence[Notification]) -> dict[str, str]:
    """Plan notifications, and return template → `planned`, or the reason for which the buyer is skipped on a feed."""
    await runtime.pipeline.fan_out.plan_next_pages([one.id for one in accepted], lambda _tasks: None)
    found = {}
    for one in accepted:
        async with runtime.store.read_snapshot() as tx:
            skips = await runtime.store.deliveries.list_skips(tx, one.id, user_id="ana", after=None, limit=10)
        reasons = [skip.reason.value for skip in skips if skip.channel == "inapp"]
        found[one.template_code] = reasons[0] if reasons else "planned"
    return found


async def test_c83_events_of_an_order_in_any_sequence_send_the_latest(
    runtime: AppContainer, service: CommerceService
) -> None:
    # a supersession waits for the claims of other processes, which takes seconds on PostgreSQL
    sequences = list(permutations(OrderStage))[: 6 if runtime.settings.is_exclusive else 2]
    for number, sequence in enumerate(sequences):
        accepted: list[Notification] = []
        for stage in (sequence[0], *sequence):
            accepted += await record_stage(runtime, service, f"o{number}", stage)
        assert await plan(runtime, accepted) == {
            "ORDER_CREATED": "superseded",
            "ORDER_SHIPPED": "superseded",
            "ORDER_DELIVERED": "planned",
        }


async def test_c84_a_capture_within_the_grace_cancels_the_message_about_the_failure(
    runtime: AppContainer, service: CommerceService, clock: FrozenClock
) -> None:
    failed = await pay(runtime, service, "p1", FAILED)
    assert failed is not None
    assert failed.send_at == clock.now() + GRACE
    clock.advance(GRACE / 2)
    captured = await pay(runtime, service, "p1", CAPTURED)
    late = await pay(runtime, service, "p2", CAPTURED)
    too_late = await pay(runtime, service, "p2", FAILED)
    assert captured is not None
    assert late is not None
    assert too_late is not None
    clock.advance(GRACE)
    assert await plan(runtime, [failed, captured]) == {"PAYMENT_FAILED": "superseded", "PAYMENT_CAPTURED": "planned"}
    assert await plan(runtime, [late, too_late]) == {"PAYMENT_FAILED": "superseded", "PAYMENT_CAPTURED": "planned"}
    assert await pay(runtime, service, "p1", FAILED) is None


async def test_c82_a_restock_withdraws_an_alert_that_is_not_sent_and_arms_the_next(
    runtime: AppContainer, service: CommerceService
) -> None:
    async with runtime.store.transaction() as tx:
        await service.add_stock_keeper(tx, "ana")
    alerts = []
    for level in (12, 10, 9, 12, 10):
        async with runtime.store.transaction() as tx:
            _, alert = await service.record_stock(tx, StockItem.build("w", "Widget", level, 10, 12))
        alerts.append(alert)
    first, second = (alert for alert in alerts if alert is not None)
    assert [index for index, alert in enumerate(alerts) if alert is not None] == [1, 4]
    async with runtime.store.read_snapshot() as tx:
        withdrawn = await runtime.store.notifications.get_many(tx, [first.id])
    assert [one.state.value for one in withdrawn] == ["cancelled"]
    assert await plan(runtime, [second]) == {"LOW_STOCK_ALERT": "planned"}


async def test_an_order_or_a_payment_of_another_user_is_refused(
    runtime: AppContainer, service: CommerceService
) -> None:
    await record_stage(runtime, service, "o1", OrderStage.CREATED)
    await pay(runtime, service, "p1", FAILED)
    other = Order("o1", user_id="ben", order_number="o1", total="5", currency="EUR")
    with pytest.raises(Conflict, match="belongs to another user"):
        async with runtime.store.transaction() as tx:
            await service.create_order(tx, other, set())
    with pytest.raises(Conflict, match="belongs to another user"):
        async with runtime.store.transaction() as tx:
            await service.record_payment(tx, "p1", "ben", CAPTURED)
    with pytest.raises(ValidationFailed, match="is an unknown user"):
        async with runtime.store.transaction() as tx:
            await service.add_stock_keeper(tx, "nobody")


async def test_events_of_an_order_that_is_never_created_are_deleted_after_thirty_days(
    runtime: AppContainer, service: CommerceService, clock: FrozenClock
) -> None:
    [purge] = [task for owner, task in runtime.create_plugin_tasks() if owner == "pack.commerce"]
    await record_stage(runtime, service, "known", OrderStage.CREATED)
    await record_stage(runtime, service, "unknown", OrderStage.SHIPPED)
    remaining = []
    for days in (0, 29, 2):
        clock.advance(timedelta(days=days))
        await purge.work()
        async with runtime.store.read_snapshot() as tx:
            found = [await repository.find_order(tx, order_id) for order_id in ("known", "unknown")]
        remaining.append([order.id for order in found if order is not None])
    assert remaining == [["known", "unknown"], ["known", "unknown"], ["known"]]


async def test_the_data_of_a_user_is_exported_and_erased(runtime: AppContainer, service: CommerceService) -> None:
    await record_stage(runtime, service, "o1", OrderStage.CREATED)
    await pay(runtime, service, "p1", FAILED)
    async with runtime.store.transaction() as tx:
        await service.add_stock_keeper(tx, "ana")
        assert await service.record_welcome(tx, "ana", user_name="Ana", delay=timedelta()) is not None
        assert await service.record_welcome(tx, "ana", user_name="Ana", delay=timedelta()) is None
    async with runtime.store.read_snapshot() as tx:
        exported: dict[str, Any] = dict(await repository.export(tx, "ana"))
    [order], [purchase], [payment] = (exported[name] for name in ("orders", "purchases", "payments"))
    assert (order["id"], order["total"], purchase["sku"], payment["failedAttempt"]) == ("o1", "5", "widget", 1)
    assert exported["isStockKeeper"] is True
    assert exported["welcomedAt"] is not None
    async with runtime.store.transaction() as tx:
        assert await erase_user(runtime.store, runtime.packs, runtime.plugins, tx, "ana")
        assert await repository.export(tx, "ana") == {
            "orders": [],
            "purchases": [],
            "payments": [],
            "welcomedAt": None,
            "isStockKeeper": False,
        }


async def test_the_migrations_create_the_declared_tables(runtime: AppContainer) -> None:
    def find_differences(connection: Connection) -> list[object]:
        options = {
            "compare_type": True,
            "include_name": lambda name, kind, _parents: kind != "table" or str(name).startswith("commerce_"),
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata))

    path = runtime.settings.sqlite_path
    engines = sqlite.create_engines(path) if path else postgres.create_engines(runtime.settings.database, pool_size=1)
    async with engines[1].connect() as connection:
        assert await connection.run_sync(find_differences) == []
    for engine in engines:
        await engine.dispose()
