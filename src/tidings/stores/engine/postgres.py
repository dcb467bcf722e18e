"""PostgreSQL engines: a pool of asyncpg connections from a libpq-style URL, which reconnects after an outage.

asyncpg parses the URL with the meaning it has for `psql`: several hosts, unix sockets (`?host=/folder`), `sslmode`,
`sslrootcert`, `passfile`, `service`, `options`. The URL may contain server settings (`?jit=on`). This module parses the
libpq parameters that asyncpg does not know: `connect_timeout`, `keepalives…`, `tcp_user_timeout`. `pgbouncer=true` is
specific to Tidings.
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
from tidings.stores.engine.cancel_safe_connection import READ_ONLY_OPTION, RESPONSE_TIMEOUT_OPTION
from tidings.stores.engine.error_mapping import POOL_TIMEOUT, READ_ONLY_SQLSTATE, redact_values

#: server settings of each connection, unless the URL overrides them
SERVER_SETTINGS: Mapping[str, str] = {
    "application_name": "tidings",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    # The locks of a process that is suspended or has lost its network are free within a minute: by the first time-out
    # between two statements, by the others while the server waits for a host that does not respond. See also
    # `TRANSACTION_TIMEOUT` and `stalled_sessions`.
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
    # the statements are short: compiling them takes longer than running them
    "jit": "off",
    # Lists of ids are JSON parameters, for which the planner assumes 100 elements. With the default cost, that of a
    # spinning disk, it would scan a whole table of users to find one.
    "random_page_cost": "1.1",
    # A generic plan is made for the tables at that time. On a new installation they have few rows, so the plan of the
    # first broadcast would scan whole tables until autovacuum analyses them a minute later.
    "plan_cache_mode": "force_custom_plan",
}
#: limit of a whole transaction, from PostgreSQL 17 on; covers a process that is suspended within a statement
TRANSACTION_TIMEOUT = "50s"
#: first major version with `transaction_timeout`
_TRANSACTION_TIMEOUT_SINCE = 17
#: seconds after which a server counts as hung: longer than `statement_timeout`
RESPONSE_TIMEOUT = 40.0
#: seconds for opening a connection
CONNECT_TIMEOUT = 10.0
#: prepared statements cached per connection: more than this program has
PREPARED_STATEMENT_CACHE_SIZE = 200
#: libpq parameters without effect here
_IGNORED_URL_PARAMETERS = (
    "gssencmode",
    "channel_binding",
    "client_encoding",
    "gssdelegation",
    "requirepeer",
    "keepalives",
)


@dataclass(frozen=True, slots=True)
class ConnectionParameters:
    """Address of the database and options of its connections."""

    #: URL for asyncpg
    dsn: str
    server_settings: Mapping[str, str]
    connect_timeout: float
    #: socket options as (level, option, value)
    socket_options: tuple[tuple[int, int, int], ...]
    #: connects through PgBouncer in transaction mode
    is_behind_pgbouncer: bool
    #: seconds; None = unlimited
    response_timeout: float | None
    #: `transaction_timeout` for servers that have it; None = set by the URL, or nowhere
    transaction_timeout: str | None

    @classmethod
    def parse(cls, url: str) -> "ConnectionParameters":
        """Parse a URL. Raises ConfigError for invalid parameters."""
        parts = urlsplit(url)
        try:
            query = {
                name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
            is_pooled = query.pop("pgbouncer", "false").lower() in ("true", "1", "yes", "on")
            connect_timeout = float(query.pop("connect_timeout", CONNECT_TIMEOUT)) or CONNECT_TIMEOUT
            socket_options = _pop_socket_options(query)
        except ValueError as error:
            raise ConfigError("TIDINGS_DATABASE", f"must be a postgresql://user@host/name URL: {error}") from error
        for ignored in _IGNORED_URL_PARAMETERS:
            query.pop(ignored, None)
        name = query.pop("fallback_application_name", SERVER_SETTINGS["application_name"])
        defaults = {**SERVER_SETTINGS, "application_name": name}
        # a write must not land on a standby, neither after a failover nor among several hosts
        query.setdefault("target_session_attrs", "read-write")
        settings = {key: value for key, value in defaults.items() if key not in query}
        if is_pooled:
            # PgBouncer rejects settings it does not know; set them on the role there: ALTER ROLE … SET
            settings = {key: value for key, value in settings.items() if key == "application_name"}
        # with a `statement_timeout` of the operator, `RESPONSE_TIMEOUT` may be too short
        response_timeout = None if "statement_timeout" in query or "options" in query else RESPONSE_TIMEOUT
        return cls(
            parts._replace(query=urlencode(query)).geturl(),
            settings,
            connect_timeout,
            socket_options,
            is_pooled,
            response_timeout,
            None if is_pooled or "transaction_timeout" in url else TRANSACTION_TIMEOUT,
        )

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Open a connection. Raises ConfigError for a URL that asyncpg rejects, BackendError if no host accepts writes.

        Other errors of asyncpg are raised as they are.
        """
        opening = asyncio.ensure_future(
            asyncpg.connect(
                self.dsn,
                timeout=self.connect_timeout,
                server_settings=dict(self.server_settings),
                # SQLAlchemy caches prepared statements itself
                statement_cache_size=0 if self.is_behind_pgbouncer else 100,
            )
        )
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # asyncpg leaves an unretrieved exception behind when connecting is cancelled, so it runs to its end
            opening.add_done_callback(_discard_connection)
            raise
        except asyncpg.exceptions.ClientConfigurationError as error:
            raise ConfigError("TIDINGS_DATABASE", f"is not a valid connection URL: {error}") from error
        except asyncpg.exceptions.TargetServerAttributeNotMatched as error:
            raise BackendError("the database accepts no writes: no host is a primary", backend="database") from error
        _configure_socket(connection, self.socket_options)
        if self.transaction_timeout and connection.get_server_version().major >= _TRANSACTION_TIMEOUT_SINCE:
            # not a server setting of the connection: older servers would refuse it
            await connection.execute(f"SET transaction_timeout = '{self.transaction_timeout}'")
        return connection


def create_engines(url: str, *, pool_size: int) -> tuple[AsyncEngine, AsyncEngine]:
    """Return (writer, reader) on one pool of `pool_size` connections. No connection is opened yet.

    The reader's transactions see one snapshot and cannot write. Raises ConfigError for an invalid URL.
    """
    parameters = ConnectionParameters.parse(url)
    connect_args: dict[str, Any] = {
        "async_creator_fn": parameters.connect,
        "prepared_statement_cache_size": PREPARED_STATEMENT_CACHE_SIZE,
    }
    if parameters.is_behind_pgbouncer:
        # the next transaction may run on another server connection, where the name is unknown or taken
        connect_args |= {
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"t{uuid.uuid4().hex}",
        }
    writer = create_async_engine(
        "postgresql+asyncpg://",
        connect_args=connect_args,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        # prefer the connection used last: its statements are prepared
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",
        execution_options={RESPONSE_TIMEOUT_OPTION: parameters.response_timeout},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        hide_parameters=True,
    )
    redact_values(writer.sync_engine)
    event.listen(writer.sync_engine, "checkout", _reject_closed_connection)
    event.listen(writer.sync_engine, "handle_error", _invalidate_standby)
    reader = writer.execution_options(isolation_level="REPEATABLE READ", **{READ_ONLY_OPTION: True})
    return writer, reader


def _discard_connection(opening: "asyncio.Future[asyncpg.Connection[asyncpg.Record]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


def _reject_closed_connection(connection: Any, _entry: object, _proxy: object) -> None:
    """Reject a connection that the server has closed, and invalidate the whole pool.

    The event loop has already noticed the end of the connection, so the check is free. SQLAlchemy's `pool_pre_ping`
    would cost three round trips.
    """
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError("the server closed the connection")


def _invalidate_standby(context: Any) -> None:
    """Discard connections to a server that became a standby, so that the next one goes to the new primary."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_SQLSTATE and context.connection is not None:
        options = context.connection.get_execution_options()
        context.is_disconnect = not options.get(READ_ONLY_OPTION, False)


def _pop_socket_options(query: dict[str, str]) -> tuple[tuple[int, int, int], ...]:
    """Remove libpq's keepalive parameters and return socket options. Default: a lost host is noticed in a minute."""
    values = {
        "TCP_KEEPIDLE": int(query.pop("keepalives_idle", 30)),
        "TCP_KEEPINTVL": int(query.pop("keepalives_interval", 10)),
        "TCP_KEEPCNT": int(query.pop("keepalives_count", 3)),
        # milliseconds for which sent data may stay unacknowledged
        "TCP_USER_TIMEOUT": int(query.pop("tcp_user_timeout", 30_000)),
    }
    supported = ((getattr(socket, name, None), value) for name, value in values.items())
    return (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(query.pop("keepalives", "1"))),
        *((socket.IPPROTO_TCP, option, value) for option, value in supported if option is not None and value > 0),
    )


def _configure_socket(connection: Any, options: tuple[tuple[int, int, int], ...]) -> None:
    # asyncpg has neither a parameter for socket options nor a public attribute for the socket
    sock = connection._transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        for level, option, value in options:
            sock.setsockopt(level, option, value)
