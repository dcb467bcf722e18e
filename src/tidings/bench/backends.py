"""The database and queue of a benchmark: a new SQLite file, or the empty database and the Redis of the environment."""

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.errors import ConfigError

_INHERITED_VARIABLES = ("TIDINGS_DATABASE", "TIDINGS_REDIS", "TIDINGS_DATABASE_POOL", "TIDINGS_WORKER_NICE")


@dataclass(frozen=True, slots=True)
class Backends:
    """The database, queue and data folder of a benchmark's processes."""

    data_dir: Path
    #: `TIDINGS_…` variables for every process
    environment: Mapping[str, str]
    settings: Settings

    @property
    def is_scaled(self) -> bool:
        """Whether API and workers run as separate processes, which requires PostgreSQL."""
        return self.settings.sqlite_path is None

    @property
    def database(self) -> str:
        """`sqlite` or `postgresql`."""
        return "postgresql" if self.is_scaled else "sqlite"

    @property
    def queue(self) -> str:
        """`local` or `bullmq`."""
        return "bullmq" if self.settings.redis else "local"


@asynccontextmanager
async def select_backends(
    data_dir: Path, *, push_host: str = "", variables: Mapping[str, str] | None = None
) -> AsyncIterator[Backends]:
    """Select the back ends from the environment for the length of the block.

    The queues get a random prefix, so that they do not mix with other queues of the same Redis, and are deleted at the
    end. The data in a PostgreSQL database are kept. Arguments: push_host — a host and port that is allowed as a push
    service although it is local; variables — further settings of the processes, by the names of their variables.
    """
    prefix = f"bench-{secrets.token_hex(4)}"
    environment = {
        **{name: os.environ[name] for name in _INHERITED_VARIABLES if os.environ.get(name)},
        "TIDINGS_QUEUE_PREFIX": prefix,
        "TIDINGS_PUSH_EXTRA_HOSTS": push_host,
        "TIDINGS_DATA_DIR": str(data_dir),
        # a benchmark measures the messages of one channel
        "TIDINGS_INAPP__ENABLED": "false",
        **(variables or {}),
    }
    settings = Settings.load(folder=data_dir, environ=environment)
    try:
        yield Backends(data_dir, environment, settings)
    finally:
        if settings.redis:
            await _delete_queues(settings.redis, prefix)


async def require_empty_database(runtime: AppContainer) -> None:
    """Raise ConfigError for a database with users: a benchmark would fill it, and its workers would notify them."""
    async with runtime.store.read_snapshot() as tx:
        if await runtime.store.users.page(tx, after=None, limit=1):
            raise ConfigError("TIDINGS_DATABASE", "is in use; a benchmark requires an empty database")


async def _delete_queues(redis_url: str, prefix: str) -> None:
    # imported here because runs without Redis do not need it
    from tidings.queues.bullmq_commands import KEY_PREFIX
    from tidings.redis_client import SLOW_TIMEOUT, RedisClient

    client = RedisClient(redis_url)
    try:
        async with client.deadline(10 * SLOW_TIMEOUT) as redis:
            async for key in redis.scan_iter(match=f"{KEY_PREFIX}:{{{prefix}-*", count=1000):
                await redis.unlink(key)
    finally:
        await client.close()
