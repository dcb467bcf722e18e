"""`tidings bench inapp`: items per second that are written to feeds, and the latency of a page of a feed.

The feeds are filled first, so that the pages are read from feeds of the given size. A broadcast to all users over the
API then measures the flow. Figures are of one run: run it several times and compare medians.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from tidings.bench.audience import add_users, analyze
from tidings.bench.backends import Backends, require_empty_database, select_backends
from tidings.bench.load import LoadUsage, measure_load, wait_until_recorded
from tidings.bench.load_client import build_get_request, send_all
from tidings.bench.report import Latency, show_progress, to_camel_case
from tidings.bench.server_process import RunningServer, run_server
from tidings.container import AppContainer
from tidings.credentials import sign_user_token
from tidings.errors import TidingsError
from tidings.model.ids import new_id
from tidings.model.inbox import InboxItem
from tidings.model.priority import Priority
from tidings.ports.transaction import retry_on_conflict

#: items per transaction while feeds are filled
_FILL_BATCH: Final = 2_000
#: seconds between two readings of the metrics; a reading costs the server about ten milliseconds
_METRICS_INTERVAL: Final = 0.2
_TIMEOUT_SECONDS: Final = 60
_SECONDS_PER_ITEM: Final = 0.01
#: pages that are read before the measurement; they fill the caches of the database
_WARM_UP_PAGES: Final = 20


@dataclass(frozen=True, slots=True)
class InAppBenchResult:
    """The figures of one run of `tidings bench inapp`. Field names are those of the JSON output, in snake case."""

    recipients: int
    #: of one notification to all users, from the request to the last recorded outcome
    seconds: float
    items_per_second: float
    #: SQL statements of all processes in that time, including background tasks
    queries: int
    cpu_seconds: float
    peak_memory_mb: float
    #: items in all feeds while pages were read
    stored_items: int
    #: rate at which the store took the items that fill the feeds, without the flow
    filled_per_second: float
    #: the first page of a feed over the API, one request at a time
    first_page_ms: Latency
    #: a page in the middle of a feed
    deep_page_ms: Latency
    workers: int
    database: str
    queue: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(
    *, recipients: int, items: int, pages: int = 1_000, workers: int | None = None, folder: Path | None = None
) -> InAppBenchResult:
    """Fill the feeds of `recipients` users with `items` items, notify all users, then read `pages` pages of each kind.

    Arguments: workers — `tidings worker` processes on PostgreSQL (default: cores), no effect on SQLite. The folder,
    the database and the errors are those of `bench.push.run`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with select_backends(Path(data), variables={"TIDINGS_INAPP__ENABLED": "true"}) as backends:
            cores = os.cpu_count() or 1
            workers = (cores if workers is None else workers) if backends.is_scaled else 0
            tokens, filled_per_second = await _prepare_feeds(backends, recipients, items)
            async with run_server(backends, workers=workers) as server:
                # the first broadcast starts the connections and compiles the template
                await _measure_notification(server, recipients, "Warm-up")
                figures = await _measure_notification(server, recipients, "Doors open at seven")
                middle = items // recipients // 2
                await _read_pages(server, tokens[:_WARM_UP_PAGES], _WARM_UP_PAGES, "")
                return InAppBenchResult(
                    recipients=recipients,
                    seconds=round(figures.seconds, 3),
                    items_per_second=round(recipients / figures.seconds, 1),
                    queries=figures.queries,
                    cpu_seconds=figures.cpu_seconds,
                    peak_memory_mb=figures.max_memory,
                    stored_items=items + 2 * recipients,
                    filled_per_second=filled_per_second,
                    first_page_ms=await _read_pages(server, tokens, pages, ""),
                    deep_page_ms=await _read_pages(server, tokens, pages, f"&cursor={middle}" if middle else ""),
                    workers=workers,
                    database=backends.database,
                    queue=backends.queue,
                    cores=cores,
                )


async def _prepare_feeds(backends: Backends, recipients: int, items: int) -> tuple[Sequence[str], float]:
    """Return a token of each user, and the items that were stored per second."""
    async with AppContainer.open(backends.settings) as runtime:
        await require_empty_database(runtime)
        user_ids = await add_users(runtime, recipients)
        started = time.perf_counter()
        with show_progress(f"Filling feeds with {items} items", items) as report:
            for start in range(0, items, _FILL_BATCH):
                numbers = range(start, min(start + _FILL_BATCH, items))
                now = runtime.clock.now()
                batch = [_build_item(user_ids[number % recipients], runtime) for number in numbers]

                async def store(batch: Sequence[InboxItem] = batch) -> None:
                    async with runtime.store.transaction() as tx:
                        await runtime.store.inbox.add_many(tx, batch, now)  # noqa: B023  # awaited in this pass

                await retry_on_conflict(store)
                if report is not None:
                    report(numbers.stop)
        seconds = time.perf_counter() - started
        await analyze(runtime)
        secret, now = runtime.settings.user_secret, runtime.clock.now()
        tokens = [sign_user_token(secret, user_id, timedelta(hours=12), now) for user_id in user_ids]
        return tokens, round(items / seconds, 1) if items else 0.0


def _build_item(user_id: str, runtime: AppContainer) -> InboxItem:
    now = runtime.clock.now()
    notification_id = new_id(now)
    return InboxItem(
        id=new_id(now),
        user_id=user_id,
        notification_id=notification_id,
        category="MESSAGE",
        title="Doors open at seven",
        body="See you tonight. The bar opens an hour earlier.",
        url="https://jazz.example/events/7",
        lang="en",
        priority=Priority.NORMAL,
        collapse_key=notification_id,
        created_at=now,
        expires_at=now + timedelta(days=28),
    )


async def _measure_notification(server: RunningServer, recipients: int, title: str) -> LoadUsage:
    """Notify all users and wait until every item is stored."""
    timeout = _TIMEOUT_SECONDS + recipients * _SECONDS_PER_ITEM

    async def wait_until_stored(attempts_before: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await wait_until_recorded(server, attempts_before + recipients, interval=_METRICS_INTERVAL)
        except TimeoutError:
            raise TidingsError(f"{recipients} items were not stored within {timeout:.0f} s") from None

    body = {
        "audience": {"kind": "everyone"},
        "templateCode": "MESSAGE",
        "variables": {"title": title, "body": "See you tonight."},
        "options": {"channels": ["inapp"]},
    }
    return await measure_load(server, lambda: server.request("POST", "/api/notifications", body), wait_until_stored)


async def _read_pages(server: RunningServer, tokens: Sequence[str], count: int, query: str) -> Latency:
    """Read pages one at a time, each of the next user's feed."""
    requests = [
        build_get_request(f"/api/inbox?limit=20{query}", key=tokens[number % len(tokens)]) for number in range(count)
    ]
    result = await send_all(server.base_url, requests, clients=1)
    return Latency.from_milliseconds(result.latencies_ms)
