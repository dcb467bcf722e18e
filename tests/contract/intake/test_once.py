"""However often a job is handed out it notifies once, and no job is lost: workers die, Redis goes back, SQL is away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from bullmq import Job as StockJob  # type: ignore[import-untyped]  # ships no types
from structlog.testing import capture_logs

from tidings.errors import BackendError
from tidings.flow.intake.outside import Part, Parts
from tidings.model.user import User
from tidings.packs import core
from tidings.ports.store import Transaction
from tidings.queues.bullmq import JobSource
from tidings.stores.postgres import engines
from tidings.stores.sealing import Sealer
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer
from tidings.testing.server import eventually
from tidings.testing.valkey import ValkeyServer
from tidings.worker import intake

if TYPE_CHECKING:
    from tests.contract.intake.conftest import Shop

OpenShop = Callable[[str, SqlStore], Awaitable["Shop"]]
KINDS = {kind.name: kind for kind in core.pack.audiences}
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
ONE = {"userId": "u1", **WORDS}
ALL = [f"u{number}" for number in range(10)]


class Unplugged:
    """Cuts a store off: before a transaction, or after its commit with the reply lost."""

    def __init__(self, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = False
        self.replies_lost = 0
        self.refused = 0
        self._begin, self._ping = store.begin, store.ping
        monkeypatch.setattr(store, "begin", self.begin)
        monkeypatch.setattr(store, "ping", self.ping)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        if self.away:
            self.refused += 1
            raise BackendError("the database does not answer")
        async with self._begin() as tx:
            yield tx
        if self.replies_lost:
            self.replies_lost -= 1
            raise BackendError("the database does not answer")

    async def ping(self) -> None:
        if self.away:
            raise BackendError("the database does not answer")
        await self._ping()


@pytest.fixture
def cable(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> Unplugged:
    return Unplugged(shop.store, monkeypatch)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a tenth."""
    monkeypatch.setattr(intake, "RETRIES", (0.2, 0.4, 0.8))
    monkeypatch.setattr(intake, "ASK_EVERY", 0.1)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Until undone, workers die between the commit and the word to the queue."""

    async def lost(*_: object, **__: object) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(JobSource, "_settle", lost)
        yield patch


async def test_a_job_whose_worker_died_after_the_commit_notifies_once(shop: "Shop", deaf: pytest.MonkeyPatch) -> None:
    one = await shop.add("publish-notification", ONE)
    many = await shop.add("batch-notification", {"userIds": ["nobody", *ALL], **WORDS})
    async with shop.intake(batch_size=4, lock=0.6):
        assert await eventually(lambda: _told(shop, 11))
    deaf.undo()
    ids = [made.id for made in await shop.notifications()]
    # another worker, with other settings: the rest is cut where the first one cut it
    async with shop.intake(batch_size=7, lock=0.6):
        single, batch = await shop.answer(one), await shop.answer(many)
    assert sorted([single["id"], *batch["ids"]]) == ids
    assert (batch["accepted"], [who["userId"] for who in batch["failed"]]) == (10, ["nobody"])
    assert sorted(await shop.told()) == sorted(["u1", *ALL])


async def _told(shop: "Shop", count: int) -> bool:
    return len(await shop.told()) == count


async def test_a_job_that_a_redis_of_yesterday_hands_out_again_gets_the_first_answer(shop: "Shop") -> None:
    async with shop.intake():
        first = await shop.answer(
            await shop.add("publish-notification", ONE, jobId="order-1", timestamp=1_800_000_000_000)
        )
        await shop.queue.client.flushall()
        again = await shop.answer(
            await shop.add("publish-notification", ONE, jobId="order-1", timestamp=1_800_000_000_000)
        )
    assert again == first
    assert await shop.told() == ["u1"]


async def test_ids_that_begin_again_are_other_jobs(shop: "Shop") -> None:
    async with shop.intake():
        first = await shop.add("publish-notification", ONE)
        await shop.answer(first)
        await shop.queue.client.flushall()
        await asyncio.sleep(0.002)  # the time it was added tells it from the first, and is in milliseconds
        second = await shop.add("publish-notification", ONE)
        await shop.answer(second)
    assert first == second
    assert await shop.told() == ["u1", "u1"]


async def test_a_job_that_failed_can_be_repaired_and_tried_again(shop: "Shop") -> None:
    async with shop.intake():
        job_id = await shop.add("publish-notification", {**ONE, "userId": "late"})
        assert "no such user" in await shop.refusal(job_id)
        await shop.people(User("late"))
        await (await shop.job(job_id)).retry("failed")
        assert (await shop.answer(job_id))["accepted"] == 1
    assert await shop.told() == ["late"]


async def test_a_worker_that_stops_gives_a_batch_back_midway(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    many = await shop.add("batch-notification", {"userIds": ALL, **WORDS})
    accept, begun = Parts.accept, asyncio.Event()
    with monkeypatch.context() as patch:
        async with shop.intake(batch_size=3) as first:

            async def stopping(self: Parts, parts: Sequence[Part]) -> object:
                found = await accept(self, parts)
                await first.close()
                begun.set()
                return found

            patch.setattr(Parts, "accept", stopping)
            async with asyncio.timeout(10):
                await begun.wait()
    assert await shop.told() == ALL[:3]
    # at once, without waiting for a lock to run out
    async with shop.intake(batch_size=50):
        answer = await shop.answer(many)
    assert (answer["accepted"], len(answer["ids"])) == (10, 2)
    assert await shop.told() == ALL


@pytest.mark.usefixtures("hasty")
async def test_jobs_outlast_a_database_that_is_away(shop: "Shop", cable: Unplugged) -> None:
    cable.away = True
    ids = [await shop.add("publish-notification", ONE) for _ in range(3)]
    ids.append(await shop.add("batch-notification", {"userIds": ALL, **WORDS}))
    async with shop.intake():
        await eventually(lambda: _refused(cable, 1))
        cable.away = False
        for one in ids:
            assert (await shop.answer(one))["accepted"]
    assert len(await shop.told()) == 13


async def _refused(cable: Unplugged, times: int) -> bool:
    return cable.refused >= times


@pytest.mark.usefixtures("hasty")
async def test_a_fault_that_comes_back_never_costs_a_job_while_it_is_the_databases(
    shop: "Shop", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "RETRIES", (0.02, 0.04, 0.08))
    tries = 0
    accept = Parts.accept

    async def failing(self: Parts, parts: Sequence[Part]) -> object:
        nonlocal tries
        tries += 1
        if tries <= 8:
            raise BackendError("too many connections")
        return await accept(self, parts)

    monkeypatch.setattr(Parts, "accept", failing)
    async with shop.intake():
        assert (await shop.answer(await shop.add("publish-notification", ONE)))["accepted"] == 1
    assert tries == 9


@pytest.mark.usefixtures("hasty")
async def test_a_commit_whose_reply_was_lost_notifies_once(shop: "Shop", cable: Unplugged) -> None:
    cable.replies_lost = 2
    async with shop.intake(batch_size=4):
        one = await shop.add("publish-notification", ONE)
        many = await shop.add("batch-notification", {"userIds": ALL, **WORDS})
        assert (await shop.answer(one))["accepted"] == 1
        assert (await shop.answer(many))["accepted"] == 10
    assert cable.replies_lost == 0
    assert sorted(await shop.told()) == sorted(["u1", *ALL])


async def test_a_transient_fault_waits_two_four_and_eight_seconds(shop: "Shop", cable: Unplugged) -> None:
    cable.away = True
    job_id = await shop.add("publish-notification", ONE)
    async with shop.intake():
        job = await eventually(lambda: _delayed(shop, job_id))
        assert 2_000 <= job.delay <= 2_000 * (1 + intake.JITTER)
        assert job.failedReason == "the database does not answer"
        cable.away = False
        assert (await shop.answer(job_id))["accepted"] == 1
    assert intake.RETRIES == (2.0, 4.0, 8.0)


async def _delayed(shop: "Shop", job_id: str) -> StockJob | None:
    job = await StockJob.fromId(shop.queue, job_id)
    return job if job.delay else None


@pytest.mark.usefixtures("hasty")
async def test_a_bug_costs_the_job_that_meets_it_and_no_other(shop: "Shop", monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Parts.accept

    async def buggy(self: Parts, parts: Sequence[Part]) -> object:
        if any(part.whom == ("u2",) for part in parts):
            raise ZeroDivisionError
        return await accept(self, parts)

    monkeypatch.setattr(Parts, "accept", buggy)
    ids = [await shop.add("publish-notification", {**ONE, "userId": user_id}) for user_id in ("u1", "u2", "u3")]
    async with shop.intake():
        assert (await shop.answer(ids[0]))["accepted"] == (await shop.answer(ids[2]))["accepted"] == 1
        assert await shop.refusal(ids[1]) == "gave up after 4 tries: internal error: ZeroDivisionError"
    assert sorted(await shop.told()) == ["u1", "u3"]


@pytest.mark.usefixtures("hasty")
async def test_it_comes_back_by_itself_when_the_database_was_away(redis_url: str, open_shop: OpenShop) -> None:
    with PostgresServer(settings=("fsync=off",)) as server:
        opened = SqlStore(*engines(server.fresh(), pool_size=5), Sealer("a secret for the tests"), KINDS)
        await opened.upgrade()
        shop = await open_shop(redis_url, opened)
        server.stop("immediate")
        ids = [await shop.add("publish-notification", ONE) for _ in range(20)]
        ids.append(await shop.add("batch-notification", {"userIds": ["u1", "nobody"], **WORDS}))
        async with shop.intake():
            with capture_logs() as logs:
                await eventually(lambda: _said(logs, "intake_waits"))
            server.start()
            for one in ids:
                assert (await shop.answer(one))["accepted"] == 1
        assert await shop.told() == ["u1"] * 21
        await opened.close()


async def test_it_comes_back_by_itself_when_redis_was_away(store: SqlStore, open_shop: OpenShop) -> None:
    with ValkeyServer(append_only=True) as valkey:
        shop = await open_shop(valkey.url, store)
        async with shop.intake():
            assert (await shop.answer(await shop.add("publish-notification", ONE)))["accepted"] == 1
            with capture_logs() as logs:
                valkey.kill()
                await eventually(lambda: _said(logs, "queue_away"))
            valkey.start()
            assert (await shop.answer(await shop.add("publish-notification", ONE)))["accepted"] == 1


async def _said(logs: Sequence[Mapping[str, object]], event: str) -> bool:
    return any(entry["event"] == event for entry in logs)
