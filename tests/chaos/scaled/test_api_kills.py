"""The API is killed on its way from the request to the queue; and one call comes fifty times at once to two of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import asyncpg
import pytest

from tidings.errors import BackendError
from tidings.testing.scene import Scene, all_final, notify, to_one
from tidings.testing.server import TidingsServer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

Stage = Callable[..., Awaitable[Scene]]
Figures = Callable[[str, object], None]
#: where the API ends, in the order of its steps, and whether the notification is stored by then
PLACES = {
    "tidings.stores.idempotency:SqlIdempotencyKeys.reserve_many:after": 0,
    "tidings.stores.notifications:SqlNotifications.add_many:after": 0,
    "tidings.stores.outbox:SqlOutbox.add:after": 0,
    "tidings.stores.idempotency:SqlIdempotencyKeys.answer_many:after": 0,
    "tidings.flow.handover:Handover.publish:before": 1,
    "tidings.flow.handover:Handover.publish:after": 1,
}


async def test_an_api_that_dies_at_any_step_promises_nothing_and_repeats_nothing(
    stage: Stage, hooked: dict[str, str], figures: Figures
) -> None:
    scene = await stage(len(PLACES))
    waited = {}
    apis = {place: scene.member("api", **hooked, CHAOS_EXIT=place) for place in PLACES}
    async with scene.fleet("api", "worker") as (api, _), AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(doomed) for doomed in apis.values()))
        for (place, stored), user in zip(PLACES.items(), scene.people, strict=True):
            before = await _stored(scene)
            doomed = apis[place]
            with pytest.raises(BackendError, match="was not answered"):
                await notify(doomed, to_one(user), key=user)
            await eventually(partial(_ended, doomed))
            assert await _stored(scene) - before == stored, place
            started = time.monotonic()
            if stored:
                # without anybody asking again, and without a message in the queue
                await eventually(partial(_delivered, scene, user), within=30)
            # the client was told nothing, and repeats its call on another process
            await all_final(api, await notify(api, to_one(user), key=user), within=30)
            waited[place] = round(time.monotonic() - started, 2)
            assert await _stored(scene) - before == 1, place
    figures("seconds until it was sent", waited)
    books = await scene.books()
    books.check_counts()
    assert books.states == {"delivered": len(PLACES)}
    assert Counter(device for device, _ in books.receipts) == dict.fromkeys(scene.people, 1)
    assert books.duplicates == 0


@pytest.mark.long
async def test_an_api_killed_after_its_commit_while_the_queue_hangs(stage: Stage, figures: Figures) -> None:
    scene = await stage(1)
    async with scene.fleet("api", "worker") as (api, _):
        scene.valkey.pause()
        asked = asyncio.create_task(notify(api, to_one("u00000"), key="once"))
        await eventually(lambda: _any_stored(scene), pause=0.005)
        await api.kill()
        # it may just have answered; if not, nothing was promised
        answered = await asyncio.gather(asked, return_exceptions=True)
        figures("the client got", type(answered[0]).__name__)
        await eventually(lambda: _delivered(scene, "u00000"), within=30)
        scene.valkey.resume()
        await api.start()
        again = await notify(api, to_one("u00000"), key="once")
        assert await all_final(api, again) == {"delivered": 1}
        assert answered[0] == again or isinstance(answered[0], BackendError)
    (await scene.books()).check(scene.people)


async def test_the_same_call_fifty_times_at_once_is_one_notification(stage: Stage, figures: Figures) -> None:
    scene = await stage(5)
    async with scene.fleet("api", "api", "worker") as (one, other, _):
        for number, user in enumerate(scene.people[:4]):
            calls = [_call((one, other)[turn % 2], user, f"key-{number}") for turn in range(50)]
            statuses, ids = zip(*await asyncio.gather(*calls), strict=True)
            assert set(statuses) <= {202, 409}, Counter(statuses)
            assert len({found for found in ids if found}) == 1
            if number == 0:
                figures("answers", dict(Counter(statuses)))
            # one key, another request
            changed = await other.call(
                "POST", "/api/notifications", to_one(scene.people[-1]), headers={"Idempotency-Key": f"key-{number}"}
            )
            assert changed.status == 422
            await all_final(one, next(found for found in ids if found))
    books = await scene.books()
    books.check_counts()
    assert len(books.counts) == 4
    assert Counter(device for device, _ in books.receipts) == dict.fromkeys(scene.people[:4], 1)
    assert books.duplicates == 0


@pytest.mark.long
async def test_a_call_whose_first_use_still_runs_is_not_done_twice(stage: Stage, figures: Figures) -> None:
    """The first is held up in its transaction, its process is killed, the second takes over."""
    scene = await stage(1)
    async with scene.fleet("api", "api", "worker") as (one, other, _):
        blocker = asyncio.create_task(_hold_the_outbox(scene, held := asyncio.Event(), let_go := asyncio.Event()))
        await held.wait()
        first = asyncio.create_task(_call(one, "u00000", "key"))
        second = asyncio.create_task(_call(other, "u00000", "key"))
        await eventually(lambda: _blocked(scene))
        await one.kill()
        let_go.set()
        await blocker
        with pytest.raises(BackendError, match="was not answered"):
            await first
        status, _ = await second
        figures("the second got", status)
        assert status in (202, 409)
        assert await all_final(other, await notify(other, to_one("u00000"), key="key")) == {"delivered": 1}
    (await scene.books()).check(scene.people)


async def _call(api: TidingsServer, user: str, key: str) -> tuple[int, str | None]:
    """Return the status, and the id of the notification if there is one."""
    answer = await api.call("POST", "/api/notifications", to_one(user), headers={"Idempotency-Key": key})
    return answer.status, answer.read(dict[str, Any])["id"] if answer.status == 202 else None


async def _hold_the_outbox(scene: Scene, held: asyncio.Event, let_go: asyncio.Event) -> None:
    connection = await asyncpg.connect(scene.database)
    async with connection.transaction():
        await connection.execute("LOCK TABLE outbox IN EXCLUSIVE MODE")
        held.set()
        await let_go.wait()
    await connection.close()


async def _blocked(scene: Scene) -> bool:
    """Say whether somebody waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await scene.sql(waiting))


async def _stored(scene: Scene) -> int:
    return int((await scene.sql("SELECT count(*) FROM notifications"))[0][0])


async def _any_stored(scene: Scene) -> bool:
    return await _stored(scene) > 0


async def _delivered(scene: Scene, user: str) -> bool:
    rows = await scene.sql("SELECT state FROM deliveries WHERE user_id = $1", user)
    return [row[0] for row in rows] == ["delivered"]


async def _ended(member: TidingsServer) -> bool:
    return not member.running
