"""VAPID key rotation: the old key is kept until its last subscription is gone."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tidings.channels.webpush.server_keys import KEY_ROTATION_GRACE, get_channel, reload_keys, rotate_keys
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.model.ids import new_id
from tidings.model.subscription import PushSubscription
from tidings.model.user import User
from tidings.testing.clock import FrozenClock


@pytest.fixture
async def runtime(tmp_path: Path, clock: FrozenClock) -> AsyncIterator[AppContainer]:
    async with AppContainer.open(Settings(data_dir=tmp_path), clock=clock) as opened:
        yield opened


async def _subscribe(runtime: AppContainer, endpoint: str) -> PushSubscription:
    _, key_id = get_channel(runtime.channels).key_ring.public_key()
    now = runtime.clock.now()
    subscription = PushSubscription(new_id(now), "ana", endpoint, bytes(65), bytes(16), key_id)
    async with runtime.store.transaction() as tx:
        await runtime.store.users.upsert(tx, [User("ana")], now)
        await runtime.store.subscriptions.register(tx, subscription, replaces=None, now=now)
    return subscription


async def test_the_first_start_creates_a_key_and_the_next_start_loads_it(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        async with AppContainer.open(Settings(data_dir=tmp_path)) as runtime:
            keys.append(get_channel(runtime.channels).key_ring.public_key())
    assert keys[0] == keys[1]


async def test_new_subscriptions_get_the_new_key_and_old_ones_keep_theirs(runtime: AppContainer) -> None:
    old = await _subscribe(runtime, "https://fcm.googleapis.com/fcm/send/1")
    rotated = await rotate_keys(runtime.channel_context)
    new = await _subscribe(runtime, "https://fcm.googleapis.com/fcm/send/2")
    assert new.vapid_key_id == rotated.id != old.vapid_key_id
    assert get_channel(runtime.channels).key_ring.is_active(old.vapid_key_id)
    async with runtime.store.read_snapshot() as tx:
        assert await runtime.store.vapid_keys.count_subscriptions(tx) == {old.vapid_key_id: 1, new.vapid_key_id: 1}


async def test_a_key_added_by_another_process_is_used(runtime: AppContainer, tmp_path: Path) -> None:
    async with AppContainer.open(Settings(data_dir=tmp_path)) as other:
        added = await rotate_keys(other.channel_context)
    assert not get_channel(runtime.channels).key_ring.is_active(added.id)
    await reload_keys(runtime.channel_context)
    assert get_channel(runtime.channels).key_ring.public_key()[1] == added.id


async def test_the_old_key_is_retired_when_its_last_subscription_is_gone(
    runtime: AppContainer, clock: FrozenClock
) -> None:
    old = await _subscribe(runtime, "https://fcm.googleapis.com/fcm/send/1")
    await rotate_keys(runtime.channel_context)
    clock.advance(KEY_ROTATION_GRACE + timedelta(seconds=1))
    await reload_keys(runtime.channel_context)
    assert get_channel(runtime.channels).key_ring.is_active(old.vapid_key_id), "a subscription still uses the key"
    async with runtime.store.transaction() as tx:
        await runtime.store.subscriptions.remove(tx, "ana", old.endpoint)
    await reload_keys(runtime.channel_context)
    await reload_keys(runtime.channel_context)
    assert not get_channel(runtime.channels).key_ring.is_active(old.vapid_key_id)


async def test_an_unused_old_key_is_kept_for_a_day_after_the_rotation(
    runtime: AppContainer, clock: FrozenClock
) -> None:
    _, old = get_channel(runtime.channels).key_ring.public_key()
    clock.advance(timedelta(days=30))
    await rotate_keys(runtime.channel_context)
    clock.advance(KEY_ROTATION_GRACE - timedelta(seconds=1))
    await reload_keys(runtime.channel_context)
    assert get_channel(runtime.channels).key_ring.is_active(old)
