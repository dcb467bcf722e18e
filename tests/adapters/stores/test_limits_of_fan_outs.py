"""Limits hold exactly under concurrent fan-outs, on both databases."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.flow.catalog import Catalog
from tidings.flow.fanout.limit_counters import MessageCounter
from tidings.flow.fanout.limit_stage import LimitStage
from tidings.flow.fanout.limits import Limit, RateLimitPolicy
from tidings.flow.fanout.page_plan import PagePlan
from tidings.flow.fanout.planner import Plan
from tidings.model.delivery import PlannedDelivery, Recipient, SkipReason
from tidings.model.frequency_cap import parse_frequency_caps
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.plan_options import PlanOptions, ThrottleOptions
from tidings.model.priority import Lane, Priority
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.alerts import NoAlerts
from tidings.ports.transaction import retry_on_conflict
from tidings.stores.engine import postgres, sqlite
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.store import SqlStore
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

USERS = [f"user-{number:02}" for number in range(12)]
FAN_OUTS = 24
CATALOG = Catalog.from_packs([core.pack], channels=("webpush",), known_channels=("webpush",))


@pytest.fixture(params=["sqlite", "postgresql"])
def engines(request: pytest.FixtureRequest, upgraded_database: Path, tmp_path: Path) -> tuple[AsyncEngine, AsyncEngine]:
    """The engines of an empty database of each kind."""
    if request.param == "postgresql":
        return postgres.create_engines(request.getfixturevalue("upgraded_url"), pool_size=20)
    path = tmp_path / "limits.db"
    path.write_bytes(upgraded_database.read_bytes())
    return sqlite.create_engines(path)


@pytest.fixture
async def many(engines: tuple[AsyncEngine, AsyncEngine]) -> AsyncIterator[SqlStore]:
    """A store with a connection per concurrent caller, and the users."""
    opened = SqlStore(*engines, FieldCipher("a secret for the tests"), {})
    async with opened.transaction() as tx:
        await opened.users.upsert(tx, [User(user_id) for user_id in USERS], NOW)
    yield opened
    await opened.close()


def make_page(number: int, plan: PlanOptions) -> PagePlan:
    """Return a planned page with a message for each user."""
    notification = replace(make_notification(), priority=Priority.NORMAL, plan=plan)
    # each fan-out has its users in another order
    people = USERS[number % len(USERS) :] + USERS[: number % len(USERS)]
    planned = [_plan(notification, user_id) for user_id in people]
    page = [Recipient(user_id, "en", "UTC", (), {}) for user_id in people]
    return PagePlan(notification, Plan(planned), page, None, is_last=True)


def _plan(notification: Notification, user_id: str) -> PlannedDelivery:
    return PlannedDelivery(
        new_id(NOW), notification.id, user_id, "webpush", new_id(NOW), new_id(NOW), Lane.NORMAL, NOW, "on by default"
    )


@pytest.mark.parametrize("kind", ["throttle", "caps", "installation", "steps"])
async def test_no_limit_is_exceeded_and_none_is_wasted(many: SqlStore, kind: str) -> None:
    throttle = PlanOptions(throttle=ThrottleOptions(5, 3600, key="orderId", key_value="7"))
    policy = {
        "throttle": RateLimitPolicy(per_user=9),
        "caps": RateLimitPolicy(frequency_caps=parse_frequency_caps(["7/day", "5/week"])),
        "installation": RateLimitPolicy(installation_cap=50),
        # half of the plans are of later steps, which count for the installation alone
        "steps": RateLimitPolicy(installation_cap=50, frequency_caps=parse_frequency_caps(["12/day"])),
    }[kind]
    stage = LimitStage(many, CATALOG, policy, NoAlerts())
    sent: Counter[str] = Counter()

    async def fan_out(number: int) -> None:
        page = make_page(number, throttle if kind == "throttle" else PlanOptions())

        async def store_page() -> PagePlan:
            async with many.transaction() as tx:
                is_later_step = kind == "steps" and number % 2 == 0
                now = NOW + timedelta(milliseconds=number % 3)
                [limited] = await stage.apply(tx, [page], now, is_later_step=is_later_step)
                return limited

        limited = await retry_on_conflict(store_page)
        assert len(limited.plan.planned) + len(limited.plan.skipped) == len(USERS)
        sent.update(delivery.user_id for delivery in limited.plan.planned)

    await asyncio.gather(*map(fan_out, range(FAN_OUTS)))
    if kind in ("installation", "steps"):
        assert sum(sent.values()) == 50
    else:
        assert sent == dict.fromkeys(USERS, 5)


async def test_what_is_rolled_back_does_not_count(many: SqlStore) -> None:
    stage = LimitStage(many, CATALOG, RateLimitPolicy(installation_cap=12), NoAlerts())
    with pytest.raises(RuntimeError, match="after the limits"):
        await _apply_and_fail(many, stage)
    async with many.transaction() as tx:
        [limited] = await stage.apply(tx, [make_page(0, PlanOptions())], NOW)
    assert limited.plan.skipped == []


async def _apply_and_fail(store: SqlStore, stage: LimitStage) -> None:
    async with store.transaction() as tx:
        await stage.apply(tx, [make_page(0, PlanOptions())], NOW)
        raise RuntimeError("after the limits")


async def test_messages_that_are_taken_back_do_not_count(many: SqlStore) -> None:
    counter = MessageCounter(many)
    limit = Limit("installation", 10, timedelta(hours=1), True, SkipReason.RATE_LIMITED, counts_messages=True)
    async with many.transaction() as tx:
        first = {"one": {"user-00": 4, "user-01": 5}}
        assert await counter.consume(tx, limit, first, NOW) == {"one": {"user-00", "user-01"}}
        await counter.take_back(tx, limit, {"user-00": 4}, NOW)
        assert await counter.consume(tx, limit, {"two": {"user-00": 6, "user-02": 5}}, NOW) == {"two": {"user-02"}}
        described = await counter.describe(tx, limit, ["user-00"], NOW)
    assert described["user-00"]["count"] == 10
