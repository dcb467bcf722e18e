"""The connection to Redis: what is told to end ends, at whatever moment it is told."""

import asyncio

import pytest

from tidings.errors import ConfigError
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


@pytest.mark.parametrize("asked", ["socket_timeout=5", "db=1&retry=&decode_responses=0"])
async def test_the_url_does_not_bring_back_what_bites(asked: str) -> None:
    """The client lets a URL override what it is given."""
    with pytest.raises(ConfigError, match=r"TIDINGS_REDIS: sets .*leave it out"):
        RedisLink(f"redis://127.0.0.1:1/0?{asked}")


async def test_the_url_may_say_the_rest() -> None:
    link = RedisLink("redis://127.0.0.1:1?db=3&health_check_interval=30")
    assert link.client.connection_pool.connection_kwargs["db"] == 3
    await link.close()
