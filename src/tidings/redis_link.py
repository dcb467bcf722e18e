"""One connection pool to a Redis or Valkey, and the deadlines of everything that is asked of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tidings.errors import BackendError, ConfigError

#: seconds a caller waits for an answer; the outbox keeps what could not be published (facts: queue, 6)
PROMPT = 0.5
#: seconds for what nobody waits for: fetching, finishing, renewing
PATIENT = 2.0
#: commands, and one blocking fetch for each lane and the intake
MOST_CONNECTIONS = 64


def connection_options(url: str, *, decode: bool = True) -> dict[str, Any]:
    """Return the options of the client for a URL, apart from what the URL itself says.

    `redis://[user[:password]@]host[:port][/db]`, `rediss://…` for TLS, `unix:///path/to/socket?db=0`; options of the
    client may follow as a query (`?ssl_ca_certs=/etc/ca.pem`), except for those returned here, which they would
    override. decode: answers are text, not bytes. Raises ConfigError for any other form of URL.
    """
    scheme, _, _, query, _ = urlsplit(url)
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("TIDINGS_REDIS", "is no Redis; write redis://host:6379/0, rediss://… or unix:///path")
    options: dict[str, Any] = {
        "decode_responses": decode,
        # a producer may write what it likes; a byte that is no UTF-8 must not stop a lane
        "encoding_errors": "replace",
        "protocol": 2,
        # Every command has its deadline in `within`, the subscription of the caches its own. The client's own ends a
        # blocking fetch too early (facts: queue, 1), and with any at all it writes inside of `asyncio.wait_for`, which
        # on Python 3.11 swallows a cancellation that comes as the writing ends (cpython issue 86296): a deadline passes
        # unnoticed, a loop that was told to end goes on.
        "socket_timeout": None,
        "socket_connect_timeout": PATIENT,
        # a fetch that is repeated unseen would leave jobs with nobody; who may repeat a command does so itself
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MOST_CONNECTIONS,
    }
    if scheme != "unix":
        options["socket_keepalive"] = True
    if taken := options.keys() & parse_qs(query, keep_blank_values=True).keys():
        raise ConfigError(
            "TIDINGS_REDIS", f"sets {', '.join(sorted(taken))}, which is not for the URL to say; leave it out"
        )
    return options


class RedisLink:
    """The client of one process. Whatever goes wrong with the server comes out as BackendError, and in time."""

    def __init__(self, url: str, *, what: str = "the queue", decode: bool = True) -> None:
        """url, decode: as `connection_options`; what: who does not answer, in errors. Nothing is connected yet."""
        self._what = what
        try:
            self.client: Redis = Redis.from_url(url, **connection_options(url, decode=decode))
        except ValueError as error:
            raise ConfigError("TIDINGS_REDIS", f"is not understood: {error}") from None

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[Redis]:
        """Give the client for commands that together take at most `seconds`; raises BackendError otherwise.

        A command that is given up closes its connection, so that a late answer is never read as another's.
        """
        try:
            async with asyncio.timeout(seconds):
                yield self.client
        except TimeoutError:
            raise BackendError(f"{self._what} does not answer in time", retry_after=1.0) from None
        except (RedisError, OSError) as error:
            raise BackendError(f"{self._what} does not answer: {type(error).__name__}", retry_after=1.0) from error

    async def ping(self) -> None:
        """Raise BackendError if the server does not answer."""
        async with self.within(PROMPT) as client:
            await client.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()
