"""Rotating the VAPID key: both keys live until the last old subscription is gone (MISSION M6)."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tidings.model.ids import new_id
from tidings.model.subscription import PushSubscription
from tidings.model.user import User
from tidings.runtime import OLD_KEY_KEPT, Runtime
from tidings.settings import Settings
from tidings.testing.clock import FrozenClock


@pytest.fixture
async def runtime(tmp_path: Path, clock: FrozenClock) -> AsyncIterator[Runtime]:
    async with Runtime.open(Settings(data_dir=tmp_path), clock=clock) as opened:
        yield opened


async def _subscribe(runtime: Runtime, endpoint: str) -> PushSubscription:
    _, key_id = runtime.push.public_key()
    now = runtime.clock.now()
    made = PushSubscription(new_id(now), "ana", endpoint, bytes(65), bytes(16), key_id)
    async with runtime.store.begin() as tx:
        await runtime.store.users.upsert(tx, [User("ana")], now)
        await runtime.store.subscriptions.register(tx, made, replaces=None, now=now)
    return made


async def test_the_first_start_makes_a_key_and_the_next_start_finds_it(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        async with Runtime.open(Settings(data_dir=tmp_path)) as runtime:
            keys.append(runtime.push.public_key())
    assert keys[0] == keys[1]


async def test_new_subscriptions_get_the_new_key_and_old_ones_keep_theirs(runtime: Runtime) -> None:
    old = await _subscribe(runtime, "https://fcm.googleapis.com/fcm/send/1")
    rotated = await runtime.rotate_keys()
    new = await _subscribe(runtime, "https://fcm.googleapis.com/fcm/send/2")
    assert new.vapid_key_id == rotated.id != old.vapid_key_id
    assert runtime.push.knows(old.vapid_key_id)
    async with runtime.store.read() as tx:
        assert await runtime.store.vapid_keys.in_use(tx) == {old.vapid_key_id: 1, new.vapid_key_id: 1}


async def test_a_key_added_by_another_process_is_taken_over(runtime: Runtime, tmp_path: Path) -> None:
    async with Runtime.open(Settings(data_dir=tmp_path)) as other:
        added = await other.rotate_keys()
    assert not runtime.push.knows(added.id)
    await runtime.reload_keys()
    assert runtime.push.public_key()[1] == added.id


async def test_the_old_key_is_retired_when_its_last_subscription_is_gone(runtime: Runtime, clock: FrozenClock) -> None:
    old = await _subscribe(runtime, "https://fcm.googleapis.com/fcm/send/1")
    await runtime.rotate_keys()
    clock.advance(OLD_KEY_KEPT + timedelta(seconds=1))
    await runtime.reload_keys()
    assert runtime.push.knows(old.vapid_key_id), "a browser still uses it"
    async with runtime.store.begin() as tx:
        await runtime.store.subscriptions.remove(tx, "ana", old.endpoint)
    await runtime.reload_keys()
    await runtime.reload_keys()
    assert not runtime.push.knows(old.vapid_key_id)


async def test_an_unused_old_key_is_kept_for_a_day_after_the_rotation(runtime: Runtime, clock: FrozenClock) -> None:
    _, old = runtime.push.public_key()
    clock.advance(timedelta(days=30))
    await runtime.rotate_keys()
    clock.advance(OLD_KEY_KEPT - timedelta(seconds=1))
    await runtime.reload_keys()
    assert runtime.push.knows(old)
