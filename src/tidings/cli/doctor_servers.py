"""Checks of `tidings doctor` on PostgreSQL and Redis: reachability, version, configuration."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tidings.config.settings import MIN_PUBLIC_SECRET, Settings
from tidings.errors import ConfigError, TidingsError
from tidings.model.check import CheckResult

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tidings.model.alert import Alert
    from tidings.stores.schema.version import MigrationSet, SchemaStatus
    from tidings.stores.store import SqlStore

#: seconds that the checks of one server may take
CHECK_TIMEOUT = 5.0
#: oldest supported major versions
MIN_POSTGRES_VERSION = 14
MIN_REDIS_VERSION = 6
#: error code of a refused write → fix
_REFUSAL_FIXES = {
    "READONLY": "it is a read-only replica; name the primary in TIDINGS_REDIS",
    "OOM": "it has reached maxmemory; make room or raise maxmemory, and keep the policy noeviction",
    "MISCONF": "it cannot save to its disk; make room there, or see its log",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write); start them",
    "NOPERM": "its user may not write; grant the commands of BullMQ with ACL SETUSER",
}
#: a larger difference between two clocks makes tokens and leases invalid
MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)


def check_pack_schemas(settings: Settings, statuses: "Sequence[SchemaStatus]") -> Iterator[CheckResult]:
    """Check the schemas of the packs. statuses: of the packs with migrations."""
    for status in statuses:
        if not status.is_current:
            fix = "the next start upgrades it" if settings.migrate else "run tidings db upgrade"
            found = f"has schema {status.current_revision or 'none'}, not {status.head_revision}"
            yield CheckResult("warning", status.owner, f"{found}; {fix}")


def check_postgres(settings: Settings, migrations: "Sequence[MigrationSet]" = ()) -> Iterator[CheckResult]:
    """Check the PostgreSQL database that the settings name. migrations: those of packs."""
    try:
        yield from asyncio.run(_run_postgres_checks(settings, migrations))
    except (TidingsError, OSError, TimeoutError) as error:
        reason = error.message if isinstance(error, TidingsError) else str(error) or "no response"
        reason = reason.removeprefix("TIDINGS_DATABASE: ")
        yield CheckResult("problem", "database", f"{reason}; correct TIDINGS_DATABASE or start PostgreSQL")


async def _run_postgres_checks(settings: Settings, migrations: "Sequence[MigrationSet]") -> list[CheckResult]:
    from sqlalchemy import text

    from tidings.stores.engine.field_encryption import FieldCipher
    from tidings.stores.engine.postgres import create_engines
    from tidings.stores.engine.transaction import connection_of
    from tidings.stores.store import SqlStore

    # The container is not used here: opening it creates secrets and the data folder, and a check must create nothing.
    cipher = FieldCipher(
        settings.secret_key if len(settings.secret_key) >= MIN_PUBLIC_SECRET else "?" * MIN_PUBLIC_SECRET
    )
    store = SqlStore(*create_engines(settings.database, pool_size=1), cipher, {}, migrations)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            async with store.read_snapshot() as tx:
                version = str(await connection_of(tx).scalar(text("SHOW server_version")))
                max_connections = int(str(await connection_of(tx).scalar(text("SHOW max_connections"))))
            schema, *of_packs = await store.schema_statuses()
            alert_results = await _check_alerts(store) if schema.is_current else []
    finally:
        await store.close()
    results = []
    if int(version.split(".")[0]) < MIN_POSTGRES_VERSION:
        results.append(
            CheckResult("problem", "database", f"PostgreSQL {version} is older than {MIN_POSTGRES_VERSION}; upgrade it")
        )
    if schema.is_current:
        message = f"PostgreSQL {version} responds; schema {schema.current_revision} is up to date"
        results.append(CheckResult("ok", "database", message))
    else:
        fix = "the next start upgrades it" if settings.migrate else "run tidings db upgrade"
        results.append(
            CheckResult("warning", "database", f"PostgreSQL {version} has schema {schema.current_revision}; {fix}")
        )
    results += check_pack_schemas(settings, of_packs)
    pool_size = settings.database_pool or 50
    if pool_size >= max_connections:
        message = f"PostgreSQL allows {max_connections} connections, one API process opens up to {pool_size}"
        fix = "lower TIDINGS_DATABASE_POOL or raise max_connections"
        results.append(CheckResult("warning", "database", f"{message}; {fix}"))
    return [*results, *alert_results]


async def _check_alerts(store: "SqlStore") -> "list[CheckResult]":
    """Report the stored alerts, and a clock that differs from that of the database server."""
    from sqlalchemy import text

    from tidings.stores.engine.transaction import connection_of

    async with store.read_snapshot() as tx:
        alerts = await store.alerts.list_all(tx)
        before = datetime.now(UTC)
        server_time: datetime = (await connection_of(tx).execute(text("SELECT clock_timestamp()"))).scalar_one()
    results = list(report_alerts(alerts))
    offset = before - server_time
    if abs(offset) > MAX_CLOCK_DIFFERENCE:
        message = (
            f"this machine's clock and that of the database server differ by {abs(offset)}; synchronise both (NTP)"
        )
        results.append(CheckResult("problem", "clock", message))
    return results


def report_alerts(alerts: "Sequence[Alert]") -> "Iterator[CheckResult]":
    """Return a problem for each operator alert that has not ended; if there is none, an ok."""
    now = datetime.now(UTC)
    raised = [alert for alert in alerts if alert.ends_at is None or alert.ends_at > now]
    for alert in raised:
        since = alert.since.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
        yield CheckResult("problem", alert.name.value, f"{alert.subject}, since {since}: {alert.detail}")
    if not raised:
        yield CheckResult("ok", "alerts", "none is raised")


def check_redis(settings: Settings) -> Iterator[CheckResult]:
    """Check the Redis that the settings name; it must be set."""
    assert settings.redis is not None
    try:
        yield from asyncio.run(_run_redis_checks(settings.redis, settings.queue_prefix))
    except (TidingsError, OSError, TimeoutError, ValueError) as error:
        reason = error.message if isinstance(error, TidingsError) else str(error) or "no response"
        yield CheckResult("problem", "redis", f"{reason}; correct TIDINGS_REDIS or start Redis")


async def _run_redis_checks(url: str, prefix: str) -> list[CheckResult]:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError
    from redis.exceptions import TimeoutError as RedisTimeout

    from tidings.redis_client import connection_options

    timeouts = {"socket_connect_timeout": CHECK_TIMEOUT, "socket_timeout": CHECK_TIMEOUT}
    client = Redis.from_url(url, **(connection_options(url) | timeouts))
    try:
        info = await client.info()
        refusal = await _probe_write(client, prefix)
    except RedisTimeout as error:
        message = f"no response within {CHECK_TIMEOUT:g} s: Redis hangs, or a firewall drops the packets"
        raise ConfigError("TIDINGS_REDIS", message) from error
    except RedisError as error:
        raise ConfigError("TIDINGS_REDIS", f"does not respond: {type(error).__name__}") from error
    finally:
        await client.aclose()
    results = _check_redis_info({str(name): str(value) for name, value in info.items()})
    if refusal is None:
        return results
    fix = _REFUSAL_FIXES.get(refusal, "see the error codes of Redis")
    # first: the server is reachable, and everything else about it may be in order
    refused = CheckResult("problem", "redis", f"responds but refuses writes ({refusal}): {fix}")
    return [refused, *(result for result in results if result.level != "ok")]


async def _probe_write(client: "Redis", prefix: str) -> str | None:
    """Write a key that expires, as the processes do; return the error code if the server refuses it."""
    from redis.exceptions import ResponseError

    from tidings.queues.bullmq_queue import probe_key
    from tidings.redis_client import PROBE_TTL

    try:
        await client.set(probe_key(prefix), b"", ex=PROBE_TTL)
    except ResponseError as error:
        # the client removes the code from the message of an error that it has a class for
        return str(getattr(error, "status_code", None) or str(error).partition(" ")[0])
    return None


def _check_redis_info(info: dict[str, str]) -> list[CheckResult]:
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "0")
    results = []
    if int(version.split(".")[0]) < MIN_REDIS_VERSION:
        results.append(
            CheckResult("problem", "redis", f"{name} {version} is older than {MIN_REDIS_VERSION}.2; upgrade it")
        )
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        message = f"{name} evicts jobs when memory is full (maxmemory-policy {info['maxmemory_policy']})"
        results.append(CheckResult("problem", "redis", f"{message}; set maxmemory-policy noeviction"))
    if info.get("aof_enabled") == "0":
        message = "a restart loses queued tasks, which are then re-enqueued from the database"
        results.append(CheckResult("warning", "redis", f"{message}; set appendonly yes"))
    if info.get("cluster_enabled") == "1":
        results.append(CheckResult("ok", "redis", "runs as a cluster; each queue is on one node"))
    return results or [CheckResult("ok", "redis", f"{name} {version} responds and is configured for persistence")]
