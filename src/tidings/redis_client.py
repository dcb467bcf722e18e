"""A connection pool for one Redis or Valkey server, with a deadline for every command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from tidings.backend_health import Backend
from tidings.errors import BackendError, ConfigError

#: deadline in seconds on the path of a request; the outbox keeps what could not be published (decision 8, 6)
FAST_TIMEOUT = 0.5
#: deadline in seconds for background commands: fetching, finishing, lock renewal
SLOW_TIMEOUT = 2.0
#: seconds until the key of a write probe expires
PROBE_TTL = 10
#: for commands, and one blocking fetch for each lane and the intake
MAX_CONNECTIONS = 64


def connection_options(url: str, *, decode: bool = True) -> dict[str, Any]:
    """Return the options of the client for a URL, besides those in the URL itself.

    url: `redis://[user[:password]@]host[:port][/db]`, `rediss://…` for TLS, or `unix:///path/to/socket?db=0`. Client
    options may follow as a query (`?ssl_ca_certs=/etc/ca.pem`), except for those returned here, which they would
    override. decode: whether responses are text instead of bytes. Raises ConfigError for any other URL.
    """
    scheme, _, _, query, _ = urlsplit(url)
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("TIDINGS_REDIS", "must be a redis://, rediss:// or unix:// URL, such as redis://host:6379/0")
    options: dict[str, Any] = {
        "decode_responses": decode,
        # other clients write to the intake; a byte that is not UTF-8 must not stop a lane
        "encoding_errors": "replace",
        "protocol": 2,
        # Every command has its deadline in `RedisClient.deadline`; `InvalidationListener` has its own. The client's
        # time-out ends a blocking fetch too early (decision 8, 1). With any time-out the client writes inside
        # `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that arrives as the write ends (cpython issue
        # 86296): deadlines and cancellations are lost.
        "socket_timeout": None,
        "socket_connect_timeout": SLOW_TIMEOUT,
        # a fetch that the client repeats would lock jobs without a consumer; callers repeat commands where it is safe
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
    }
    if scheme != "unix":
        options["socket_keepalive"] = True
    if reserved := options.keys() & parse_qs(query, keep_blank_values=True).keys():
        raise ConfigError(
            "TIDINGS_REDIS", f"sets {', '.join(sorted(reserved))}, which the URL must not contain; remove it"
        )
    return options


class RedisClient:
    """The Redis client of one process. Every failure of the server is raised as BackendError, within the deadline."""

    def __init__(self, url: str, *, backend: Backend = "queue", decode: bool = True) -> None:
        """url, decode: as for `connection_options`. backend: named in errors. The client connects at its first use."""
        self._backend = backend
        try:
            self.client: Redis = Redis.from_url(url, **connection_options(url, decode=decode))
        except ValueError as error:
            raise ConfigError("TIDINGS_REDIS", f"is not a valid URL: {error}") from None

    @asynccontextmanager
    async def deadline(self, seconds: float) -> AsyncIterator[Redis]:
        """Yield the client for commands that may take `seconds` in total. Raises BackendError after that.

        An aborted command closes its connection, so that a late response is not read as that of another command.
        """
        try:
            async with asyncio.timeout(seconds):
                yield self.client
        except TimeoutError:
            raise self._error("does not answer in time") from None
        except ResponseError as error:
            # without the message, which may quote a command
            raise self._error(f"refused a command: {type(error).__name__}") from error
        except (RedisError, OSError) as error:
            raise self._error(f"does not answer: {type(error).__name__}") from error

    async def ping(self) -> None:
        """Raise BackendError if the server is unavailable."""
        async with self.deadline(FAST_TIMEOUT) as client:
            await client.ping()

    async def probe_write(self, key: str) -> None:
        """Raise BackendError if the server is unavailable or refuses writes.

        A PING does not show the latter: a read-only server, or one out of memory, answers it. key: written, and expires
        after `PROBE_TTL` seconds.
        """
        async with self.deadline(FAST_TIMEOUT) as client:
            await client.set(key, b"", ex=PROBE_TTL)

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()

    def _error(self, problem: str) -> BackendError:
        name = self._backend.replace("_", " ")
        return BackendError(f"the {name} {problem}", retry_after=1.0, backend=self._backend)
