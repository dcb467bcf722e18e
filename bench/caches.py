"""What each cache would save, with and without it: `python bench/caches.py [--recipients N] [--runs N]`.

On SQLite with a cache in the process, and on PostgreSQL with one in Valkey; both servers start by themselves. Runs with
and without a cache take turns; shown are medians, and the fastest, which a busy machine disturbs least. No message is
sent: a fan-out ends with its deliveries planned.
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

from tidings.bench import people
from tidings.bench.backends import Backends
from tidings.caches.opened import open_cache
from tidings.flow.choices import Choices
from tidings.model import audience
from tidings.model.audience import Audience, to_json
from tidings.model.delivery import Recipient
from tidings.model.request import NotifyRequest
from tidings.model.user import Preference
from tidings.packs.events.tables import favourites
from tidings.ports.cache import Cache
from tidings.ports.store import Transaction
from tidings.runtime import Runtime
from tidings.settings import Role, Settings
from tidings.stores.connection import of
from tidings.stores.store import SqlStore
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

TARGETS_KEPT_FOR = timedelta(minutes=5)
#: the same users are told again and again, and all of them each time
UNLIMITED = {"TIDINGS_USER_LIMIT": "0"}
LOOK_UPS = 2000
#: users that look at their settings; one look-up in fifty changes them
VISITORS = 200
CHANGED = 0.02

_decoder = msgspec.msgpack.Decoder(list[Recipient])


class CachedAudiences:
    """The pages of audiences from a cache, as `stores.audiences` gives them: what a cache of target lists would be."""

    def __init__(self, store: SqlStore, cache: Cache) -> None:
        self._audiences = store.audiences
        self._cache = cache

    async def page(
        self, tx: Transaction, audience: Audience, *, category: str, after: str | None, limit: int
    ) -> Sequence[Recipient]:
        """Return a page from the cache, or from the database into it."""
        key = f"{json.dumps(to_json(audience))}:{category}:{after}:{limit}"
        if found := (await self._cache.get_many([key])).get(key):
            return _decoder.decode(found)
        page = await self._audiences.page(tx, audience, category=category, after=after, limit=limit)
        await self._cache.set_many({key: msgspec.msgpack.encode(page)}, ttl=TARGETS_KEPT_FOR)
        return page


class Figures:
    """Times in ms and statements of a step, once without a cache and once with it."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.taken: dict[str, list[tuple[float, int]]] = {"without": [], "with": []}

    async def measure(self, which: str, step: Callable[[], Awaitable[object]]) -> None:
        """Run a step and note what it took."""
        statements, started = self._store.statements, time.perf_counter()
        await step()
        self.taken[which].append(((time.perf_counter() - started) * 1e3, self._store.statements - statements))

    def show(self, name: str, *, each: int = 1, more: str = "") -> None:
        """Print what one of `each` that a step did took."""
        print(f"  {name}")
        for which, taken in self.taken.items():
            times, counts = ([value / each for value in column] for column in zip(*taken, strict=True))
            middle, statements = statistics.median(times), statistics.median(counts)
            print(f"    {which:<8}{middle:10.3f} ms, fastest{min(times):10.3f} ms {statements:8.2f} statements")
        if more:
            print(f"    {more}")


async def look_ups(runtime: Runtime, cache: Cache, ids: Sequence[str], runs: int) -> None:
    """Measure users looking at their preferences, and changing them now and then."""
    chosen = random.Random(1)  # noqa: S311  # the same visits each time
    turns = [(chosen.choice(ids[:VISITORS]), chosen.random() < CHANGED) for _ in range(LOOK_UPS)]
    visits = {"without": Choices(runtime.store, None), "with": Choices(runtime.store, cache)}
    choice = [Preference("EVENT_UPDATES", "webpush", True)]

    async def reads(choices: Choices) -> None:
        for user_id, _ in turns:
            await choices.of(user_id)

    async def visited(choices: Choices) -> None:
        for user_id, changes in turns:
            await choices.of(user_id)
            if changes:
                async with choices.changing(user_id) as tx:
                    await runtime.store.users.set_preferences(tx, user_id, choice)

    for name, visit in (("preferences, look-ups alone", reads), ("preferences, a change after one in fifty", visited)):
        figures, before = Figures(runtime.store), cache.stats
        for _ in range(runs):
            for which, choices in visits.items():
                await figures.measure(which, partial(visit, choices))
        hits, misses = cache.stats.hits - before.hits, cache.stats.misses - before.misses
        figures.show(name, each=LOOK_UPS, more=f"hit rate {hits / (hits + misses):.0%}")


async def fan_outs(runtime: Runtime, cache: Cache, name: str, told: Audience, runs: int) -> None:
    """Measure the same audience being told again and again, and nothing else happening: the best case of a cache."""
    plain = runtime.store.audiences
    audiences = {"without": plain, "with": CachedAudiences(runtime.store, cache)}
    request = NotifyRequest("EVENT_MANUAL", told, {"eventId": "e", "title": "News", "body": "Of a benchmark"})
    pages, whole = Figures(runtime.store), Figures(runtime.store)

    async def read_pages() -> None:
        after, more = None, True
        while more:
            async with runtime.store.read() as tx:
                limit = runtime.settings.page_size + 1
                page = await runtime.store.audiences.page(tx, told, category="EVENT_UPDATES", after=after, limit=limit)
            after, more = page[-1].user_id, len(page) == limit

    async def fan_out() -> None:
        notification = await runtime.pipeline.submit(request)
        while await runtime.pipeline.fan_out(notification.id):
            pass

    for run in range(runs + 1):
        for which, some in audiences.items():
            runtime.store.audiences = some  # type: ignore[assignment]  # what a cache would take the place of
            for figures, step in ((pages, read_pages), (whole, fan_out)):
                # the first run fills the cache
                await (figures.measure(which, step) if run else step())
    runtime.store.audiences = plain
    pages.show(f"{name}, all pages read")
    whole.show(f"{name}, whole fan-out")


async def measure(title: str, settings: Settings, recipients: int, runs: int) -> None:
    """Print the figures of one way to run."""
    print(title)
    chosen = Backends(settings.data_dir, {}, settings)
    event_id = await people.prepare(chosen, recipients=recipients, origin="https://updates.push.services.mozilla.com")
    async with Runtime.open(settings, role=Role.WORKER) as runtime, caches(settings) as opened:
        ids = [f"u{number:07}" for number in range(recipients)]
        now = runtime.clock.now()
        async with runtime.store.begin() as tx:
            rows = [{"event_id": event_id, "user_id": one, "host_id": None, "created_at": now} for one in ids]
            await of(tx).execute(insert(favourites), rows)
        await look_ups(runtime, opened("preferences"), ids, runs)
        await fan_outs(runtime, opened("targets"), "target list", audience.ticket_holders(event_id), runs)
        await fan_outs(runtime, opened("favourites"), "favourites", audience.favourited(event_id), runs)


@asynccontextmanager
async def caches(settings: Settings) -> AsyncIterator[Callable[[str], Cache]]:
    """Give what opens a cache of the kind that the settings mean."""
    made: list[Cache] = []

    def opened(name: str) -> Cache:
        cache = open_cache(settings.redis, "bench", name, alone=True)
        assert cache is not None
        made.append(cache)
        return cache

    yield opened
    for cache in made:
        await cache.close()


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.recipients} recipients")
    with tempfile.TemporaryDirectory() as folder:
        alone = Settings.load(folder=Path(folder), environ={"TIDINGS_DATA_DIR": folder, **UNLIMITED})
        asyncio.run(measure("SQLite, cache in the process", alone, options.recipients, options.runs))
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as postgres, ValkeyServer() as valkey:
        urls = {"TIDINGS_DATABASE": postgres.fresh(), "TIDINGS_REDIS": valkey.url, **UNLIMITED}
        scaled = Settings.load(folder=Path(folder), environ={"TIDINGS_DATA_DIR": folder, **urls})
        asyncio.run(measure("PostgreSQL, cache in Valkey", scaled, options.recipients, options.runs))


if __name__ == "__main__":
    main()
