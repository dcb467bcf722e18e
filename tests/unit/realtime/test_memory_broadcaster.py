"""Events reach the subscribers of their user, in order, and never wait for a slow one."""

from tidings.model.inbox import InboxChange, InboxChangeKind, InboxCounts
from tidings.realtime.memory_broadcaster import MAX_WAITING_EVENTS, MemoryBroadcaster


def make_change(version: int, user_id: str = "ana") -> InboxChange:
    return InboxChange(user_id, InboxChangeKind.SEEN, InboxCounts(0, 0, version))


async def test_each_subscriber_of_a_user_receives_each_event_in_order() -> None:
    broadcaster = MemoryBroadcaster()
    async with broadcaster.subscribe("ana") as phone, broadcaster.subscribe("ana") as tablet:
        await broadcaster.publish([make_change(1), make_change(1, "ben"), make_change(2)])
        for subscription in (phone, tablet):
            stream = aiter(subscription)
            assert [await anext(stream) for _ in range(2)] == [make_change(1), make_change(2)]


async def test_nothing_is_kept_after_the_last_subscriber_left() -> None:
    broadcaster = MemoryBroadcaster()
    async with broadcaster.subscribe("ana"):
        pass
    await broadcaster.publish([make_change(1)])
    assert broadcaster.subscribed_users == set()


async def test_a_subscriber_that_falls_behind_is_ended_without_a_gap() -> None:
    broadcaster = MemoryBroadcaster()
    async with broadcaster.subscribe("ana") as slow:
        await broadcaster.publish([make_change(version) for version in range(MAX_WAITING_EVENTS + 5)])
        received = [change async for change in slow]
    assert received == [make_change(version) for version in range(MAX_WAITING_EVENTS)]
