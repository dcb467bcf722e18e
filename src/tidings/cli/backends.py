"""What `tidings doctor` asks PostgreSQL and Redis: do they answer, are they new enough, do they keep what they hold?"""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tidings.cli.finding import Finding
from tidings.errors import ConfigError, TidingsError
from tidings.settings import MIN_PUBLIC_SECRET, Settings

if TYPE_CHECKING:
    from tidings.stores.store import SqlStore

#: seconds a backend may take
ANSWERS_WITHIN = 5.0
#: oldest versions that are tested
OLDEST_POSTGRESQL = 14
OLDEST_REDIS = 6


def postgresql(settings: Settings) -> Iterator[Finding]:
    """Check the database of the settings, which is PostgreSQL."""
    try:
        yield from asyncio.run(_postgresql(settings))
    except (TidingsError, OSError, TimeoutError) as error:
        reason = error.message if isinstance(error, TidingsError) else str(error) or "no answer"
        reason = reason.removeprefix("TIDINGS_DATABASE: ")
        yield Finding("problem", "database", f"{reason}; correct TIDINGS_DATABASE, or start PostgreSQL there")


async def _postgresql(settings: Settings) -> list[Finding]:
    from sqlalchemy import text

    from tidings.stores.connection import of
    from tidings.stores.postgres import engines
    from tidings.stores.sealing import Sealer
    from tidings.stores.store import SqlStore

    # put together here: a runtime would make secrets and a folder for them, and who looks makes nothing
    sealer = Sealer(settings.secret_key if len(settings.secret_key) >= MIN_PUBLIC_SECRET else "?" * MIN_PUBLIC_SECRET)
    store = SqlStore(*engines(settings.database, pool_size=1), sealer, {})
    try:
        async with asyncio.timeout(ANSWERS_WITHIN):
            async with store.read() as tx:
                version = str(await of(tx).scalar(text("SHOW server_version")))
                most = int(str(await of(tx).scalar(text("SHOW max_connections"))))
            found = await store.schema_status()
            sealing = await _sealing(store) if found.up_to_date else None
    finally:
        await store.close()
    findings = []
    if int(version.split(".")[0]) < OLDEST_POSTGRESQL:
        findings.append(
            Finding("problem", "database", f"PostgreSQL {version} is older than {OLDEST_POSTGRESQL}; upgrade it")
        )
    if found.up_to_date:
        findings.append(
            Finding("ok", "database", f"PostgreSQL {version} answers; schema {found.current} is up to date")
        )
    else:
        how = "the next start upgrades it" if settings.migrate else "run tidings db upgrade"
        findings.append(Finding("warning", "database", f"PostgreSQL {version} has schema {found.current}; {how}"))
    wanted = settings.database_pool or 50
    if wanted >= most:
        fix = "lower TIDINGS_DATABASE_POOL or raise max_connections"
        findings.append(Finding("warning", "database", f"takes {most} connections, one API process {wanted}; {fix}"))
    return [*findings, *([sealing] if sealing is not None else [])]


async def _sealing(store: "SqlStore") -> Finding | None:
    """Try the secret on the keys that are sealed with it; None = there are none."""
    try:
        async with store.read() as tx:
            keys = await store.vapid_keys.all(tx)
    except ConfigError as error:
        return Finding("problem", error.setting, error.message.removeprefix(f"{error.setting}: "))
    return Finding("ok", "TIDINGS_SECRET_KEY", "opens what the database keeps sealed") if keys else None


def redis(settings: Settings) -> Iterator[Finding]:
    """Check the Redis of the settings."""
    assert settings.redis is not None, "asked where there is one"
    try:
        yield from asyncio.run(_redis(settings.redis))
    except (TidingsError, OSError, TimeoutError, ValueError) as error:
        reason = error.message if isinstance(error, TidingsError) else str(error) or "no answer"
        yield Finding("problem", "redis", f"{reason}; correct TIDINGS_REDIS, or start Redis there")


async def _redis(url: str) -> list[Finding]:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError
    from redis.exceptions import TimeoutError as RedisTimeout

    from tidings.redis_link import connection_options

    patient = {"socket_connect_timeout": ANSWERS_WITHIN, "socket_timeout": ANSWERS_WITHIN}
    client = Redis.from_url(url, **(connection_options(url) | patient))
    try:
        info = await client.info()
    except RedisTimeout as error:
        what = f"says nothing for {ANSWERS_WITHIN:g} s: it hangs, or a firewall swallows what is sent"
        raise ConfigError("TIDINGS_REDIS", what) from error
    except RedisError as error:
        raise ConfigError("TIDINGS_REDIS", f"does not answer: {type(error).__name__}") from error
    finally:
        await client.aclose()
    return _judged({str(name): str(value) for name, value in info.items()})


def _judged(info: dict[str, str]) -> list[Finding]:
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "0")
    findings = []
    if int(version.split(".")[0]) < OLDEST_REDIS:
        findings.append(Finding("problem", "redis", f"{name} {version} is older than {OLDEST_REDIS}.2; upgrade it"))
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        why = f"{name} throws jobs away when memory is short ({info['maxmemory_policy']})"
        findings.append(Finding("problem", "redis", f"{why}; set maxmemory-policy noeviction"))
    if info.get("aof_enabled") == "0":
        why = "a restart forgets what waits, and it is told again from the database"
        findings.append(Finding("warning", "redis", f"{why}; set appendonly yes"))
    if info.get("cluster_enabled") == "1":
        findings.append(Finding("ok", "redis", "runs as a cluster; each queue lives on one node"))
    return findings or [Finding("ok", "redis", f"{name} {version} answers and keeps what it holds")]
