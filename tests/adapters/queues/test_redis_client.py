"""The Redis client: a call can be cancelled at any moment, and a URL cannot override essential options."""

import asyncio

import pytest

from tidings.errors import ConfigError
from tidings.redis_client import RedisClient


@pytest.mark.parametrize("fresh", [False, True], ids=["known connection", "new connection"])
async def test_no_cancellation_is_swallowed(redis_url: str, fresh: bool) -> None:
    """Deadlines are cancellations too: after a swallowed one, a call waits as long as the server takes."""
    redis_client = RedisClient(redis_url)
    cancelled_count, passes = 0, 0
    has_finished = False
    while not has_finished:
        if fresh:
            await redis_client.client.connection_pool.disconnect()
        else:
            await redis_client.ping()
        pinging = asyncio.create_task(redis_client.ping())
        for _ in range(passes):
            await asyncio.sleep(0)
        if not (has_finished := pinging.done()):
            pinging.cancel()
            await asyncio.wait([pinging])
            assert pinging.cancelled(), f"the cancellation after {passes} passes of the event loop was swallowed"
            cancelled_count += 1
        passes += 1
    await redis_client.close()
    assert cancelled_count > 3


@pytest.mark.parametrize("options", ["socket_timeout=5", "db=1&retry=&decode_responses=0"])
async def test_the_url_must_not_override_essential_options(options: str) -> None:
    """Redis clients let the URL override constructor arguments."""
    with pytest.raises(ConfigError, match=r"TIDINGS_REDIS: sets .*remove it"):
        RedisClient(f"redis://127.0.0.1:1/0?{options}")


async def test_the_url_may_set_other_options() -> None:
    redis_client = RedisClient("redis://127.0.0.1:1?db=3&health_check_interval=30")
    assert redis_client.client.connection_pool.connection_kwargs["db"] == 3
    await redis_client.close()
