"""PostgreSQL engines: a pool of connections that asyncpg opens from a libpq-style URL, and that comes back by itself.

asyncpg reads the URL, so that it means what it means to `psql`: several hosts, unix sockets (`?host=/folder`),
`sslmode`, `sslrootcert`, `passfile`, `service`, `options`; server settings may stand in it too (`?jit=on`). What libpq
knows beside that is read here: `connect_timeout`, `keepalives…`, `tcp_user_timeout`. `pgbouncer=true` is ours.
"""

import asyncio
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import asyncpg
import msgspec
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tidings.errors import BackendError, ConfigError
from tidings.stores.faults import POOL_TIMEOUT, READ_ONLY
from tidings.stores.steady import ANSWER_WITHIN, READING

#: what the server gives up by itself, unless the URL says otherwise
SERVER_SETTINGS: Mapping[str, str] = {
    "application_name": "tidings",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    # our statements are short: compiling them takes longer than running them
    "jit": "off",
    # Lists of ids come as JSON, of which the planner expects a hundred. With the cost of a spinning disk it would read
    # a whole table of users to find one.
    "random_page_cost": "1.1",
    # A plan that is kept was made for the tables as they were: on a new installation for a few rows, which a first
    # broadcast then reads from end to end again and again, until the server counts its rows a minute later.
    "plan_cache_mode": "force_custom_plan",
}
#: seconds after which a server that should have given up a statement by itself counts as hung
ANSWER_LIMIT = 40.0
#: seconds for opening a connection
CONNECT_TIMEOUT = 10.0
#: statements that a connection keeps prepared: more than there are
PREPARED = 200
#: parameters of libpq that need nothing from us
_IGNORED = ("gssencmode", "channel_binding", "client_encoding", "gssdelegation", "requirepeer", "keepalives")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is and how to talk to it."""

    #: for asyncpg
    dsn: str
    settings: Mapping[str, str]
    connect_timeout: float
    #: options of the socket: (level, option, value)
    socket: tuple[tuple[int, int, int], ...]
    #: behind a PgBouncer in transaction mode
    pgbouncer: bool
    #: seconds; None where the server may take as long as it likes
    answer_within: float | None

    @classmethod
    def of(cls, url: str) -> "Address":
        """Read a URL. Raises ConfigError for parameters that cannot be read."""
        parts = urlsplit(url)
        try:
            query = {
                name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
            pooled = query.pop("pgbouncer", "false").lower() in ("true", "1", "yes", "on")
            seconds = float(query.pop("connect_timeout", CONNECT_TIMEOUT)) or CONNECT_TIMEOUT
            kept = _socket_options(query)
        except ValueError as error:
            raise ConfigError(
                "TIDINGS_DATABASE", f"cannot be read: {error}; write postgresql://user@host/name"
            ) from error
        for ignored in _IGNORED:
            query.pop(ignored, None)
        name = query.pop("fallback_application_name", SERVER_SETTINGS["application_name"])
        defaults = {**SERVER_SETTINGS, "application_name": name}
        # a write must not land on a standby, neither after a failover nor among several hosts
        query.setdefault("target_session_attrs", "read-write")
        # PgBouncer refuses settings that it does not know; there they belong to the role: ALTER ROLE … SET
        settings = {} if pooled else {key: value for key, value in defaults.items() if key not in query}
        # who sets another limit for statements says that they may take their time
        limit = None if "statement_timeout" in query or "options" in query else ANSWER_LIMIT
        return cls(parts._replace(query=urlencode(query)).geturl(), settings, seconds, kept, pooled, limit)

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Open a connection. Raises what asyncpg raises, and ConfigError for a URL that makes no sense to it."""
        opening = asyncio.ensure_future(
            asyncpg.connect(
                self.dsn,
                timeout=self.connect_timeout,
                server_settings=dict(self.settings),
                # SQLAlchemy keeps prepared statements itself
                statement_cache_size=0 if self.pgbouncer else 100,
            )
        )
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # cut short in its midst, asyncpg leaves an error behind that nobody takes
            opening.add_done_callback(_unwanted)
            raise
        except asyncpg.exceptions.ClientConfigurationError as error:
            raise ConfigError("TIDINGS_DATABASE", f"cannot be read: {error}") from error
        except asyncpg.exceptions.TargetServerAttributeNotMatched as error:
            raise BackendError("the database takes no writes: no host is a primary at the moment") from error
        _configure(connection, self.socket)
        return connection


def engines(url: str, *, pool_size: int) -> tuple[AsyncEngine, AsyncEngine]:
    """Return (writer, reader) on one pool of `pool_size` connections. Nothing is opened yet.

    The reader's transactions see one snapshot and cannot write. Raises ConfigError for a URL that cannot be read.
    """
    address = Address.of(url)
    arguments: dict[str, Any] = {"async_creator_fn": address.connect, "prepared_statement_cache_size": PREPARED}
    if address.pgbouncer:
        # the next transaction may meet another server connection, where the name is unknown or somebody else's
        arguments |= {
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"t{uuid.uuid4().hex}",
        }
    writer = create_async_engine(
        "postgresql+asyncpg://",
        connect_args=arguments,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        # the connection used last has its statements prepared; the others rest
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",
        execution_options={ANSWER_WITHIN: address.answer_within},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    event.listen(writer.sync_engine, "checkout", _refuse_dead)
    event.listen(writer.sync_engine, "handle_error", _drop_standby)
    reader = writer.execution_options(isolation_level="REPEATABLE READ", **{READING: True})
    return writer, reader


def _unwanted(opening: "asyncio.Future[asyncpg.Connection[asyncpg.Record]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


def _refuse_dead(connection: Any, _entry: object, _proxy: object) -> None:
    """Give out no connection that the server has closed: when one is dead the pool throws away all, and opens anew.

    The event loop has seen the end of the connection when it came, so that looking costs nothing; asking the server
    each time would cost three trips.
    """
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError("the server closed the connection")


def _drop_standby(context: Any) -> None:
    """Throw away connections to a server that became a standby: the next one looks for the new primary."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY and context.connection is not None:
        options = context.connection.get_execution_options()
        context.is_disconnect = not options.get(READING, False)


def _socket_options(query: dict[str, str]) -> tuple[tuple[int, int, int], ...]:
    """Take the parameters of libpq about keepalives, with our defaults: a host that vanished is noticed in a minute."""
    wanted = {
        "TCP_KEEPIDLE": int(query.pop("keepalives_idle", 30)),
        "TCP_KEEPINTVL": int(query.pop("keepalives_interval", 10)),
        "TCP_KEEPCNT": int(query.pop("keepalives_count", 3)),
        # milliseconds that what was sent may stay unacknowledged
        "TCP_USER_TIMEOUT": int(query.pop("tcp_user_timeout", 30_000)),
    }
    found = ((getattr(socket, name, None), value) for name, value in wanted.items())
    return (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(query.pop("keepalives", "1"))),
        *((socket.IPPROTO_TCP, option, value) for option, value in found if option is not None and value > 0),
    )


def _configure(connection: Any, options: tuple[tuple[int, int, int], ...]) -> None:
    # asyncpg has no option for it and no public way to its socket
    plug = connection._transport.get_extra_info("socket")
    if plug is not None and plug.family in (socket.AF_INET, socket.AF_INET6):
        for level, option, value in options:
            plug.setsockopt(level, option, value)
