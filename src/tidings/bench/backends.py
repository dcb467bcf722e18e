"""What a benchmark works on: a new SQLite file, or the empty database and the Redis that the environment names."""

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tidings.errors import ConfigError
from tidings.runtime import Runtime
from tidings.settings import Settings

_NAMED = ("TIDINGS_DATABASE", "TIDINGS_REDIS", "TIDINGS_DATABASE_POOL", "TIDINGS_WORKER_NICE")


@dataclass(frozen=True, slots=True)
class Backends:
    """Where a benchmark's processes keep what they know."""

    data_dir: Path
    #: `TIDINGS_…` variables of every process
    environment: Mapping[str, str]
    settings: Settings

    @property
    def scaled(self) -> bool:
        """Whether several processes work side by side: on PostgreSQL."""
        return self.settings.sqlite_path is None

    @property
    def database(self) -> str:
        """`sqlite` or `postgresql`."""
        return "postgresql" if self.scaled else "sqlite"

    @property
    def queue(self) -> str:
        """`local` or `bullmq`."""
        return "bullmq" if self.settings.redis else "local"


@asynccontextmanager
async def backends(data_dir: Path, *, push_host: str = "") -> AsyncIterator[Backends]:
    """Choose for the length of the block. push_host: the only one that may be sent to.

    The queues have names of their own, so that no work of others on the same Redis is taken; they are erased at the
    end. The data in a database that was named stay.
    """
    prefix = f"bench-{secrets.token_hex(4)}"
    environment = {
        **{name: os.environ[name] for name in _NAMED if os.environ.get(name)},
        "TIDINGS_QUEUE_PREFIX": prefix,
        "TIDINGS_PUSH_EXTRA_HOSTS": push_host,
        "TIDINGS_DATA_DIR": str(data_dir),
    }
    settings = Settings.load(folder=data_dir, environ=environment)
    try:
        yield Backends(data_dir, environment, settings)
    finally:
        if settings.redis:
            await _erase(settings.redis, prefix)


async def refuse_used(runtime: Runtime) -> None:
    """Raise ConfigError for a database that has users: a benchmark fills it, and its workers would send to them."""
    async with runtime.store.read() as tx:
        if await runtime.store.users.page(tx, after=None, limit=1):
            raise ConfigError("TIDINGS_DATABASE", "is in use; a benchmark needs an empty database of its own")


async def _erase(redis_url: str, prefix: str) -> None:
    # loads what speaks to Redis, which most runs do not need
    from tidings.queues.bullmq_commands import PREFIX
    from tidings.redis_link import PATIENT, RedisLink

    link = RedisLink(redis_url)
    try:
        async with link.within(10 * PATIENT) as redis:
            async for key in redis.scan_iter(match=f"{PREFIX}:{{{prefix}-*", count=1000):
                await redis.unlink(key)
    finally:
        await link.close()
