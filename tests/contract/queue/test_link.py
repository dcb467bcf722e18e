"""The connection to Redis: what is told to end ends, at whatever moment it is told."""

import asyncio

import pytest

from tidings.redis_link import RedisLink


@pytest.mark.parametrize("fresh", [False, True], ids=["known connection", "new connection"])
async def test_no_cancellation_is_swallowed(redis_url: str, fresh: bool) -> None:
    """Deadlines are cancellations too: one that is lost would be waited past, by as much as the server likes."""
    link = RedisLink(redis_url)
    cancelled, passes = 0, 0
    ended = False
    while not ended:
        if fresh:
            await link.client.connection_pool.disconnect()
        else:
            await link.ping()
        asking = asyncio.create_task(link.ping())
        for _ in range(passes):
            await asyncio.sleep(0)
        if not (ended := asking.done()):
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled(), f"the cancellation after {passes} passes of the event loop was swallowed"
            cancelled += 1
        passes += 1
    await link.close()
    assert cancelled > 3
