"""`tidings bench digest`: digests closed per second, up to the commit of their notifications and deliveries.

Each digest has items of its own user. Closing loads and checks every item, renders its text, and accepts and plans one
notification, as a worker does. Nothing is sent. Figures are of one run: run it several times and compare medians.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from msgspec import structs

from tidings.bench.audience import add_users, analyze
from tidings.bench.backends import require_empty_database, select_backends
from tidings.bench.report import to_camel_case
from tidings.container import AppContainer
from tidings.errors import TidingsError
from tidings.model.audience import everyone
from tidings.model.digest import CollectedItem, DigestKey, DigestState, DigestWindow
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions
from tidings.model.request import NotifyRequest

#: digests per transaction while they are opened
_FILL_BATCH: Final = 1_000
#: a channel that needs no contact points
_WITH_FEED: Final = {"TIDINGS_INAPP__ENABLED": "true"}
_WINDOW: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class DigestBenchResult:
    """The figures of one run of `tidings bench digest`. Field names are those of the JSON output, in snake case."""

    digests: int
    #: of each digest
    items: int
    #: from the first transaction to the last commit
    seconds: float
    digests_per_second: float
    #: of this process, without the database
    cpu_seconds: float
    queries: int
    database: str
    cores: int

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(*, digests: int, items: int, folder: Path | None = None) -> DigestBenchResult:
    """Open `digests` digests of `items` items each, and close them in this process.

    The folder, the database and the errors are those of `bench.push.run`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with (
            select_backends(Path(data)) as backends,
            AppContainer.open(backends.settings.with_channel_values(_WITH_FEED)) as runtime,
        ):
            await require_empty_database(runtime)
            await _open_digests(runtime, await add_users(runtime, digests), items)
            await analyze(runtime)
            queries, cpu, started = runtime.store.statement_count, time.process_time(), time.perf_counter()
            closed = await runtime.pipeline.close_due_digests()
            seconds = time.perf_counter() - started
            if closed != digests or not await _are_notified(runtime):
                raise TidingsError(f"{closed} of {digests} digests were closed, or some of them without a notification")
            return DigestBenchResult(
                digests=digests,
                items=items,
                seconds=round(seconds, 3),
                digests_per_second=round(digests / seconds, 1),
                cpu_seconds=round(time.process_time() - cpu, 2),
                queries=runtime.store.statement_count - queries,
                database=backends.database,
                cores=os.cpu_count() or 1,
            )


async def _are_notified(runtime: AppContainer) -> bool:
    """Return whether every digest became a notification."""
    async with runtime.store.read_once() as tx:
        empty = await runtime.store.digests.list_page(tx, before=None, limit=1, state=DigestState.EMPTY)
    return not empty


async def _open_digests(runtime: AppContainer, user_ids: Sequence[str], items: int) -> None:
    """Store a digest with items for each user, all due."""
    notifications = [await _accept_trigger(runtime, number) for number in range(items)]
    now = runtime.clock.now() - _WINDOW
    for start in range(0, len(user_ids), _FILL_BATCH):
        collected = [
            CollectedItem(
                one.id, DigestKey(user_id, one.template_code, "bench", ""), one.category, now, DigestWindow(now)
            )
            for user_id in user_ids[start : start + _FILL_BATCH]
            for one in notifications
        ]
        async with runtime.store.transaction() as tx:
            opened = await runtime.store.digests.open(tx, collected, now)
            stored = [structs.replace(item, digest_id=opened[item.key].digest_id) for item in collected]
            await runtime.store.digests.add_items(tx, stored)


async def _accept_trigger(runtime: AppContainer, number: int) -> Notification:
    return await runtime.pipeline.submit(
        NotifyRequest(
            "MESSAGE",
            everyone(),
            {"title": f"Update {number}", "body": "Doors open at seven."},
            digest=DigestOptions(window_seconds=600),
        )
    )
