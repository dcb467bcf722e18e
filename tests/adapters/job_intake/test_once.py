"""A job notifies exactly once and is never lost: worker crashes, Redis rollbacks and database outages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from bullmq import Job as StockJob  # type: ignore[import-untyped]  # ships no types
from structlog.testing import capture_logs
from tests.support.server import eventually

from tidings.errors import BackendError
from tidings.flow.accept.external_jobs import ExternalJobAcceptor, JobPart
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.store import Transaction
from tidings.queues.bullmq_consumer import BullMQConsumer
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.postgres import create_engines
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer
from tidings.worker import job_intake

if TYPE_CHECKING:
    from tests.adapters.job_intake.conftest import Shop

OpenShop = Callable[[str, SqlStore], Awaitable["Shop"]]
KINDS = {kind.name: kind for kind in core.pack.audiences}
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
ONE = {"userId": "u1", **WORDS}
ALL = [f"u{number}" for number in range(10)]


class DatabaseOutage:
    """Fails the transactions of a store: before they begin, or after the commit with the reply lost."""

    def __init__(self, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_active = False
        #: whether the database still answers a ping
        self.is_read_only = False
        self.lost_replies = 0
        self.refused_count = 0
        self._begin, self._ping = store.transaction, store.ping
        monkeypatch.setattr(store, "transaction", self.begin)
        monkeypatch.setattr(store, "ping", self.ping)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        if self.is_active:
            self.refused_count += 1
            raise BackendError("the database does not answer")
        async with self._begin() as tx:
            yield tx
        if self.lost_replies:
            self.lost_replies -= 1
            raise BackendError("the database does not answer")

    async def ping(self) -> None:
        if self.is_active and not self.is_read_only:
            raise BackendError("the database does not answer")
        await self._ping()


@pytest.fixture
def outage(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> DatabaseOutage:
    return DatabaseOutage(shop.store, monkeypatch)


@pytest.fixture
def short_retry_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry delays of a tenth of the usual ones."""
    monkeypatch.setattr(job_intake, "RETRY_DELAYS", (0.2, 0.4, 0.8))
    monkeypatch.setattr(job_intake, "DATABASE_PROBE_EVERY", 0.1)


@pytest.fixture
def lost_settlements(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Until undone, workers lose the job's settlement after the commit, as if they had crashed."""

    async def do_nothing(*_: object, **__: object) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(BullMQConsumer, "_finish", do_nothing)
        yield patch


async def test_a_job_whose_worker_crashed_after_the_commit_notifies_once(
    shop: "Shop", lost_settlements: pytest.MonkeyPatch
) -> None:
    one = await shop.add("publish-notification", ONE)
    many = await shop.add("batch-notification", {"userIds": ["nobody", *ALL], **WORDS})
    async with shop.intake(batch_size=4, lock=0.6):
        assert await eventually(lambda: _has_notified(shop, 11))
    lost_settlements.undo()
    ids = [notification.id for notification in await shop.notifications()]
    # another worker with another batch size: the rest keeps the parts of the first worker
    async with shop.intake(batch_size=7, lock=0.6):
        single, batch = await shop.result(one), await shop.result(many)
    assert sorted([single["id"], *batch["ids"]]) == ids
    assert (batch["accepted"], [failure["userId"] for failure in batch["failed"]]) == (10, ["nobody"])
    assert sorted(await shop.notified_users()) == sorted(["u1", *ALL])


async def _has_notified(shop: "Shop", count: int) -> bool:
    return len(await shop.notified_users()) == count


async def test_a_job_redelivered_after_a_redis_rollback_gets_the_first_result(shop: "Shop") -> None:
    async with shop.intake():
        first = await shop.result(
            await shop.add("publish-notification", ONE, jobId="order-1", timestamp=1_800_000_000_000)
        )
        await shop.queue.client.flushall()
        again = await shop.result(
            await shop.add("publish-notification", ONE, jobId="order-1", timestamp=1_800_000_000_000)
        )
    assert again == first
    assert await shop.notified_users() == ["u1"]


async def test_reused_job_ids_after_a_queue_reset_are_new_jobs(shop: "Shop") -> None:
    async with shop.intake():
        first = await shop.add("publish-notification", ONE)
        await shop.result(first)
        await shop.queue.client.flushall()
        await asyncio.sleep(0.002)  # the time of adding, in milliseconds, distinguishes the two jobs
        second = await shop.add("publish-notification", ONE)
        await shop.result(second)
    assert first == second
    assert await shop.notified_users() == ["u1", "u1"]


async def test_a_failed_job_can_be_retried_once_its_cause_is_fixed(shop: "Shop") -> None:
    async with shop.intake():
        job_id = await shop.add("publish-notification", {**ONE, "userId": "late"})
        assert "no such user" in await shop.failure_reason(job_id)
        await shop.add_users(User("late"))
        await (await shop.finished_job(job_id)).retry("failed")
        assert (await shop.result(job_id))["accepted"] == 1
    assert await shop.notified_users() == ["late"]


async def test_a_stopping_worker_returns_the_rest_of_a_batch_to_the_queue(
    shop: "Shop", monkeypatch: pytest.MonkeyPatch
) -> None:
    many = await shop.add("batch-notification", {"userIds": ALL, **WORDS})
    accept, begun = ExternalJobAcceptor.accept, asyncio.Event()
    with monkeypatch.context() as patch:
        async with shop.intake(batch_size=3) as first:

            async def accept_then_stop(self: ExternalJobAcceptor, parts: Sequence[JobPart]) -> object:
                accepted = await accept(self, parts)
                await first.stop()
                begun.set()
                return accepted

            patch.setattr(ExternalJobAcceptor, "accept", accept_then_stop)
            async with asyncio.timeout(10):
                await begun.wait()
    assert await shop.notified_users() == ALL[:3]
    # the rest is available at once, without waiting for a lock to expire
    async with shop.intake(batch_size=50):
        result = await shop.result(many)
    assert (result["accepted"], len(result["ids"])) == (10, 2)
    assert await shop.notified_users() == ALL


@pytest.mark.usefixtures("short_retry_delays")
async def test_jobs_survive_a_database_outage(shop: "Shop", outage: DatabaseOutage) -> None:
    outage.is_active = True
    ids = [await shop.add("publish-notification", ONE) for _ in range(3)]
    ids.append(await shop.add("batch-notification", {"userIds": ALL, **WORDS}))
    async with shop.intake():
        await eventually(lambda: _has_refused(outage, 1))
        outage.is_active = False
        for job_id in ids:
            assert (await shop.result(job_id))["accepted"]
    assert len(await shop.notified_users()) == 13


async def _has_refused(outage: DatabaseOutage, times: int) -> bool:
    return outage.refused_count >= times


@pytest.mark.usefixtures("short_retry_delays")
async def test_a_database_that_refuses_writes_pauses_the_intake_once(shop: "Shop", outage: DatabaseOutage) -> None:
    outage.is_active = outage.is_read_only = True
    ids = [await shop.add("publish-notification", ONE) for _ in range(30)]
    with capture_logs() as logs:
        async with shop.intake():
            # ten jobs were received before the outage was noticed; after that, single jobs probe the database
            await eventually(lambda: _has_refused(outage, 5))
            outage.is_active = False
            for job_id in ids:
                assert (await shop.result(job_id))["accepted"] == 1
    paused = [entry["event"] for entry in logs if str(entry["event"]).startswith(("intake_", "backend_"))]
    assert paused == ["backend_unavailable", "intake_paused", "intake_resumed"]


@pytest.mark.usefixtures("short_retry_delays")
async def test_a_repeated_database_error_never_fails_a_job(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_intake, "RETRY_DELAYS", (0.02, 0.04, 0.08))
    attempts = 0
    accept = ExternalJobAcceptor.accept

    async def failing(self: ExternalJobAcceptor, parts: Sequence[JobPart]) -> object:
        nonlocal attempts
        attempts += 1
        if attempts <= 8:
            raise BackendError("too many connections")
        return await accept(self, parts)

    monkeypatch.setattr(ExternalJobAcceptor, "accept", failing)
    async with shop.intake():
        assert (await shop.result(await shop.add("publish-notification", ONE)))["accepted"] == 1
    assert attempts == 9


@pytest.mark.usefixtures("short_retry_delays")
async def test_a_commit_whose_reply_was_lost_notifies_once(shop: "Shop", outage: DatabaseOutage) -> None:
    outage.lost_replies = 2
    async with shop.intake(batch_size=4):
        one = await shop.add("publish-notification", ONE)
        many = await shop.add("batch-notification", {"userIds": ALL, **WORDS})
        assert (await shop.result(one))["accepted"] == 1
        assert (await shop.result(many))["accepted"] == 10
    assert outage.lost_replies == 0
    assert sorted(await shop.notified_users()) == sorted(["u1", *ALL])


async def test_a_transient_error_is_retried_after_two_four_and_eight_seconds(
    shop: "Shop", outage: DatabaseOutage
) -> None:
    outage.is_active = True
    job_id = await shop.add("publish-notification", ONE)
    async with shop.intake():
        job = await eventually(lambda: _delayed(shop, job_id))
        assert 2_000 <= job.delay <= 2_000 * (1 + job_intake.RETRY_JITTER)
        assert job.failedReason == "the database does not answer"
        outage.is_active = False
        assert (await shop.result(job_id))["accepted"] == 1
    assert job_intake.RETRY_DELAYS == (2.0, 4.0, 8.0)


async def _delayed(shop: "Shop", job_id: str) -> StockJob | None:
    job = await StockJob.fromId(shop.queue, job_id)
    return job if job.delay else None


@pytest.mark.usefixtures("short_retry_delays")
async def test_a_bug_fails_only_the_job_that_triggers_it(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    accept = ExternalJobAcceptor.accept

    async def buggy(self: ExternalJobAcceptor, parts: Sequence[JobPart]) -> object:
        if any(part.recipients == ("u2",) for part in parts):
            raise ZeroDivisionError
        return await accept(self, parts)

    monkeypatch.setattr(ExternalJobAcceptor, "accept", buggy)
    ids = [await shop.add("publish-notification", {**ONE, "userId": user_id}) for user_id in ("u1", "u2", "u3")]
    async with shop.intake():
        assert (await shop.result(ids[0]))["accepted"] == (await shop.result(ids[2]))["accepted"] == 1
        assert await shop.failure_reason(ids[1]) == "gave up after 4 attempts: internal error: ZeroDivisionError"
    assert sorted(await shop.notified_users()) == ["u1", "u3"]


@pytest.mark.usefixtures("short_retry_delays")
async def test_the_intake_recovers_by_itself_after_a_database_outage(redis_url: str, open_shop: OpenShop) -> None:
    with PostgresServer(settings=("fsync=off",)) as server:
        store = SqlStore(
            *create_engines(server.create_database(), pool_size=5), FieldCipher("a secret for the tests"), KINDS
        )
        await store.upgrade()
        shop = await open_shop(redis_url, store)
        server.stop("immediate")
        ids = [await shop.add("publish-notification", ONE) for _ in range(20)]
        ids.append(await shop.add("batch-notification", {"userIds": ["u1", "nobody"], **WORDS}))
        async with shop.intake():
            with capture_logs() as logs:
                await eventually(lambda: _has_logged(logs, "intake_paused"))
            server.start()
            for job_id in ids:
                assert (await shop.result(job_id))["accepted"] == 1
        assert await shop.notified_users() == ["u1"] * 21
        await store.close()


async def test_the_intake_recovers_by_itself_after_a_redis_outage(store: SqlStore, open_shop: OpenShop) -> None:
    with ValkeyServer(append_only=True) as valkey:
        shop = await open_shop(valkey.url, store)
        async with shop.intake():
            assert (await shop.result(await shop.add("publish-notification", ONE)))["accepted"] == 1
            with capture_logs() as logs:
                valkey.kill()
                await eventually(lambda: _has_logged(logs, "backend_unavailable"))
            valkey.start()
            assert (await shop.result(await shop.add("publish-notification", ONE)))["accepted"] == 1


async def _has_logged(logs: Sequence[Mapping[str, object]], event: str) -> bool:
    return any(entry["event"] == event for entry in logs)
