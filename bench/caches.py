"""Benchmark of caches: the time and SQL statements that each saves.

Usage: `python bench/caches.py [--recipients N] [--runs N]`. It measures SQLite with a cache in memory, then PostgreSQL
with a cache in Valkey; it starts both servers itself. Runs with and without a cache alternate. It prints the median and
the fastest run, which other load on the machine disturbs least. No message is sent: a fan-out ends when its deliveries
are planned.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec
from sqlalchemy import insert

from tidings.bench.audience import prepare_audience
from tidings.bench.backends import Backends
from tidings.caches.factory import create_cache
from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.model.audience import Audience, favourited, ticket_holders, to_json
from tidings.model.delivery import Recipient
from tidings.model.preference import Preference
from tidings.model.request import NotifyRequest
from tidings.packs.events.tables import favourites
from tidings.ports.cache import Cache
from tidings.ports.store import Transaction
from tidings.preferences import PreferenceService
from tidings.stores.engine.transaction import connection_of
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

PAGE_TTL = timedelta(minutes=5)
#: no rate limit, because the same users are notified in every run
UNLIMITED = {"TIDINGS_USER_LIMIT": "0"}
LOOK_UPS = 2000
#: users that read their preferences, and the share of reads that is followed by a change
VISITORS = 200
CHANGE_SHARE = 0.02

_decoder = msgspec.msgpack.Decoder(list[Recipient])


class CachedAudiences:
    """`stores.audiences` with a cache of audience pages in front of it."""

    def __init__(self, store: SqlStore, cache: Cache) -> None:
        self._audiences = store.audiences
        self._cache = cache

    async def page(
        self,
        tx: Transaction,
        audience: Audience,
        *,
        category: str,
        after: str | None,
        limit: int,
        subject: str | None = None,
    ) -> Sequence[Recipient]:
        """Return a page from the cache, or from the database, and cache it."""
        key = f"{json.dumps(to_json(audience))}:{category}:{subject}:{after}:{limit}"
        if cached := (await self._cache.get_many([key])).get(key):
            return _decoder.decode(cached)
        page = await self._audiences.page(tx, audience, category=category, subject=subject, after=after, limit=limit)
        await self._cache.set_many({key: msgspec.msgpack.encode(page)}, ttl=PAGE_TTL)
        return page


class Measurements:
    """Times in milliseconds and SQL statements of a step, without and with a cache."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._samples: dict[str, list[tuple[float, int]]] = {"without": [], "with": []}

    async def measure(self, variant: str, step: Callable[[], Awaitable[object]]) -> None:
        """Run a step and record its time and statements. Arguments: variant — `without` or `with`."""
        statements_before, started = self._store.statement_count, time.perf_counter()
        await step()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        self._samples[variant].append((elapsed_ms, self._store.statement_count - statements_before))

    def report(self, name: str, *, operations: int = 1, note: str = "") -> None:
        """Print the figures per operation, of which a step contains `operations`."""
        print(f"  {name}")
        for variant, samples in self._samples.items():
            times, counts = ([value / operations for value in column] for column in zip(*samples, strict=True))
            median, statements = statistics.median(times), statistics.median(counts)
            print(f"    {variant:<8}{median:10.3f} ms, fastest{min(times):10.3f} ms {statements:8.2f} statements")
        if note:
            print(f"    {note}")


async def measure_preferences(runtime: AppContainer, cache: Cache, user_ids: Sequence[str], runs: int) -> None:
    """Measure reading preferences, without and with occasional changes."""
    rng = random.Random(1)  # noqa: S311  # the same sequence in each run
    visits = [(rng.choice(user_ids[:VISITORS]), rng.random() < CHANGE_SHARE) for _ in range(LOOK_UPS)]
    services = {"without": PreferenceService(runtime.store, None), "with": PreferenceService(runtime.store, cache)}
    preferences = [Preference("EVENT_UPDATES", "webpush", True)]

    async def read(service: PreferenceService) -> None:
        for user_id, _ in visits:
            await service.get(user_id)

    async def read_and_change(service: PreferenceService) -> None:
        for user_id, changes in visits:
            await service.get(user_id)
            if changes:
                async with service.edit(user_id) as tx:
                    await runtime.store.users.set_preferences(tx, user_id, preferences)

    for name, step in (
        ("preferences, reads only", read),
        ("preferences, a change after 2 % of reads", read_and_change),
    ):
        measurements, before = Measurements(runtime.store), cache.stats
        for _ in range(runs):
            for variant, service in services.items():
                await measurements.measure(variant, partial(step, service))
        hits, misses = cache.stats.hits - before.hits, cache.stats.misses - before.misses
        measurements.report(name, operations=LOOK_UPS, note=f"hit rate {hits / (hits + misses):.0%}")


async def measure_fan_out(runtime: AppContainer, cache: Cache, name: str, audience: Audience, runs: int) -> None:
    """Measure repeated fan-outs to the same audience on an otherwise idle system: the best case of a cache."""
    uncached = runtime.store.audiences
    variants = {"without": uncached, "with": CachedAudiences(runtime.store, cache)}
    request = NotifyRequest("EVENT_MANUAL", audience, {"eventId": "e", "title": "News", "body": "Of a benchmark"})
    page_reads, fan_outs = Measurements(runtime.store), Measurements(runtime.store)

    async def read_pages() -> None:
        after, has_more = None, True
        while has_more:
            async with runtime.store.read_snapshot() as tx:
                limit = runtime.settings.page_size + 1
                page = await runtime.store.audiences.page(
                    tx, audience, category="EVENT_UPDATES", after=after, limit=limit
                )
            after, has_more = page[-1].user_id, len(page) == limit

    async def fan_out() -> None:
        notification = await runtime.pipeline.submit(request)
        while await runtime.pipeline.fan_out.plan_next_pages([notification.id]):
            pass

    for run in range(runs + 1):
        for variant, audiences in variants.items():
            runtime.store.audiences = audiences  # type: ignore[assignment]  # only `page` is called
            for measurements, step in ((page_reads, read_pages), (fan_outs, fan_out)):
                # the first run fills the cache
                await (measurements.measure(variant, step) if run else step())
    runtime.store.audiences = uncached
    page_reads.report(f"{name}, all pages read")
    fan_outs.report(f"{name}, complete fan-out")


async def measure(title: str, settings: Settings, recipients: int, runs: int) -> None:
    """Print the figures of one installation."""
    print(title)
    event_id = await prepare_audience(
        Backends(settings.data_dir, {}, settings),
        recipients=recipients,
        origin="https://updates.push.services.mozilla.com",
    )
    async with AppContainer.open(settings, role=Role.WORKER) as runtime, open_caches(settings) as open_cache:
        user_ids = [f"u{number:07}" for number in range(recipients)]
        now = runtime.clock.now()
        async with runtime.store.transaction() as tx:
            rows = [
                {"event_id": event_id, "user_id": user_id, "host_id": None, "created_at": now} for user_id in user_ids
            ]
            await connection_of(tx).execute(insert(favourites), rows)
        await measure_preferences(runtime, open_cache("preferences"), user_ids, runs)
        await measure_fan_out(runtime, open_cache("targets"), "target list", ticket_holders(event_id), runs)
        await measure_fan_out(runtime, open_cache("favourites"), "favourites", favourited(event_id), runs)


@asynccontextmanager
async def open_caches(settings: Settings) -> AsyncIterator[Callable[[str], Cache]]:
    """Yield a function that opens a named cache of the configured kind; all are closed at the end."""
    opened: list[Cache] = []

    def open_cache(name: str) -> Cache:
        cache = create_cache(settings.redis, "bench", name, is_exclusive=True)
        assert cache is not None
        opened.append(cache)
        return cache

    yield open_cache
    for cache in opened:
        await cache.close()


def main() -> None:
    """Measure SQLite, then PostgreSQL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.recipients} recipients")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(folder=Path(folder), environ={"TIDINGS_DATA_DIR": folder, **UNLIMITED})
        asyncio.run(measure("SQLite, cache in memory", settings, options.recipients, options.runs))
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as postgres, ValkeyServer() as valkey:
        urls = {"TIDINGS_DATABASE": postgres.create_database(), "TIDINGS_REDIS": valkey.url, **UNLIMITED}
        settings = Settings.load(folder=Path(folder), environ={"TIDINGS_DATA_DIR": folder, **urls})
        asyncio.run(measure("PostgreSQL, cache in Valkey", settings, options.recipients, options.runs))


if __name__ == "__main__":
    main()
