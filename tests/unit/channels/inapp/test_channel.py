"""The in-app channel: what it composes, and the outcome of storing it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tidings.channels.inapp import InAppChannel, create_inapp_channel
from tidings.errors import BackendError, TidingsError, ValidationFailed
from tidings.model.delivery import OutboundMessage
from tidings.model.ids import new_id
from tidings.model.inbox import InboxItem, InboxView
from tidings.model.outcome import Accepted, PermanentFailure, RetryLater
from tidings.model.priority import Priority
from tidings.model.template import Category, MessageAction, RenderedMessage
from tidings.model.user import User
from tidings.ports.channel import ComposeContext
from tidings.realtime.memory_broadcaster import MemoryBroadcaster
from tidings.stores.store import SqlStore
from tidings.testing.clock import START, FrozenClock

NOW = START
CONTENT = RenderedMessage(
    "Grüße", "You", "https://example.org/1", "de", actions=(MessageAction("open", "Open", "https://example.org/1"),)
)


def make_context(user_id: str = "ana") -> ComposeContext:
    notification_id = new_id(NOW)
    return ComposeContext(
        notification_id, new_id(NOW), user_id, Category("NEWS", "News"), "order:1", NOW + timedelta(days=1), "UTC"
    )


def make_message(payload: bytes, context: ComposeContext) -> OutboundMessage:
    # the channel needs no target
    target: Any = None
    return OutboundMessage(
        context.delivery_id,
        context.notification_id,
        target,
        payload,
        Priority.URGENT,
        context.expires_at,
        1,
        context.collapse_key,
    )


async def test_a_send_delivers_the_composed_item() -> None:
    delivered: list[InboxItem] = []

    async def deliver(item: InboxItem) -> None:
        delivered.append(item)

    channel, context = InAppChannel(deliver, FrozenClock()), make_context()
    await channel.open()
    outcome = await channel.send(make_message(channel.compose(CONTENT, context), context))
    await channel.close()
    assert (channel.name, outcome) == ("inapp", Accepted("stored in the feed"))
    assert delivered == [
        InboxItem(
            context.delivery_id,
            "ana",
            context.notification_id,
            "NEWS",
            "Grüße",
            "You",
            "https://example.org/1",
            "de",
            Priority.URGENT,
            "order:1",
            NOW,
            context.expires_at,
            actions=CONTENT.actions,
            renotify=False,
        )
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            BackendError("no answer", retry_after=7),
            RetryLater(NOW + timedelta(seconds=7), "the item was not stored: no answer", counts_as_attempt=False),
        ),
        (ValidationFailed("cannot be stored"), PermanentFailure("cannot be stored")),
    ],
)
async def test_a_failed_store_is_an_outcome(error: TidingsError, expected: object) -> None:
    async def deliver(_item: InboxItem) -> None:
        raise error

    channel, context = InAppChannel(deliver, FrozenClock()), make_context()
    assert await channel.send(make_message(channel.compose(CONTENT, context), context)) == expected


def test_text_that_cannot_be_encoded_is_refused() -> None:
    async def deliver(_item: InboxItem) -> None:
        raise AssertionError

    broken = RenderedMessage("\ud800", "", "https://example.org", "en")
    with pytest.raises(ValidationFailed, match="surrogate"):
        InAppChannel(deliver, FrozenClock()).compose(broken, make_context())


async def test_many_sends_share_transactions(store: SqlStore) -> None:
    clock, broadcaster = FrozenClock(), MemoryBroadcaster()
    channel = create_inapp_channel(store, clock, broadcaster)
    async with store.transaction() as tx:
        await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
    contexts = [make_context(user_id) for user_id in ("ana", "ben") for _ in range(20)]
    plain = [
        ComposeContext(c.notification_id, c.delivery_id, c.user_id, c.category, c.notification_id, c.expires_at, "UTC")
        for c in contexts
    ]
    before = store.statement_count
    sends = (channel.send(make_message(channel.compose(CONTENT, one), one)) for one in plain)
    outcomes = await asyncio.gather(*sends)
    assert set(map(type, outcomes)) == {Accepted}
    assert store.statement_count - before < 40, "far fewer than one transaction for each item"
    async with store.read_snapshot() as tx:
        page = await store.inbox.page(tx, "ana", InboxView.ALL, before=None, limit=100)
        counts = await store.inbox.get_counts(tx, "ben")
    assert (len(page), counts.unread) == (20, 20)
