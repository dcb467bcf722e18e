"""The VAPID keys in the database: created at the first start, loaded by every process, rotated, and retired."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from tidings.channels.plugin import ChannelContext
from tidings.channels.webpush.channel import WebPushChannel
from tidings.channels.webpush.vapid import generate_key
from tidings.model.subscription import VapidKey
from tidings.ports.channel import Channel

#: an old VAPID key stays active at least this long, because a browser may have read it just before the rotation
KEY_ROTATION_GRACE: Final = timedelta(days=1)


def get_channel(channels: Mapping[str, Channel]) -> WebPushChannel:
    """Return the Web Push channel of a process."""
    channel = channels["webpush"]
    assert isinstance(channel, WebPushChannel), "the entry point webpush is that of Tidings"
    return channel


async def load_keys(context: ChannelContext) -> None:
    """Give the channel its keys. The first process to start creates one, under a lock.

    Raises ConfigError if they were encrypted with another secret.
    """
    keys_in_store = context.store.vapid_keys
    async with context.store.read_snapshot() as tx:
        keys = await keys_in_store.list_all(tx)
    if not _has_active(keys):
        async with context.store.transaction() as tx:
            await keys_in_store.lock(tx)
            keys = await keys_in_store.list_all(tx)
            if not _has_active(keys):
                await keys_in_store.add(tx, generate_key(context.clock.now()))
                keys = await keys_in_store.list_all(tx)
    get_channel(context.channels).set_keys(keys)


async def reload_keys(context: ChannelContext) -> None:
    """Load keys that `rotate_keys` added in any process, and retire keys without subscriptions."""
    channel = get_channel(context.channels)
    async with context.store.read_snapshot() as tx:
        keys = await context.store.vapid_keys.list_all(tx)
    if frozenset(key.id for key in keys if key.retired_at is None) != channel.key_ring.active_ids:
        channel.set_keys(keys)
    if len(channel.key_ring.active_ids) > 1:
        await _retire_unused_keys(context)


async def rotate_keys(context: ChannelContext) -> VapidKey:
    """Add a key for new subscriptions. Existing subscriptions keep their key until the browser resubscribes."""
    key = generate_key(context.clock.now())
    async with context.store.transaction() as tx:
        await context.store.vapid_keys.add(tx, key)
    await reload_keys(context)
    return key


async def _retire_unused_keys(context: ChannelContext) -> None:
    current_id, created_at = get_channel(context.channels).key_ring.current_key()
    now, keys_in_store = context.clock.now(), context.store.vapid_keys
    if now < created_at + KEY_ROTATION_GRACE:
        return
    async with context.store.transaction() as tx:
        subscription_counts = await keys_in_store.count_subscriptions(tx)
        for key in await keys_in_store.list_all(tx):
            if key.id != current_id and key.retired_at is None and not subscription_counts.get(key.id):
                await keys_in_store.retire(tx, key.id, now)


def _has_active(keys: Sequence[VapidKey]) -> bool:
    return any(key.retired_at is None for key in keys)
