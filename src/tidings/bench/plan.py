"""`tidings bench plan`: recipients planned per second, by the rules alone and with the database, page by page.

The users are as varied as the rules: some turned a category, a channel or one object off, receive it on a condition, or
have quiet hours.
Figures are of one run: run it several times and compare medians.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import insert

from tidings.bench.audience import analyze, prepare_audience
from tidings.bench.backends import select_backends
from tidings.bench.report import to_camel_case
from tidings.container import AppContainer
from tidings.flow.fanout.delivery_ids import generate_ids
from tidings.flow.fanout.fan_out import FanOut
from tidings.flow.fanout.planner import Plan
from tidings.model.audience import everyone
from tidings.model.delivery import Recipient
from tidings.model.notification import Notification
from tidings.model.preference import ANY, Condition, Operator, Preference
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest
from tidings.model.user_schedule import NO_SCHEDULE, QuietHours, UserSchedule, encode_quiet_hours
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import preferences, user_schedules

#: of the devices; nothing is sent
_PUSH_HOST: Final = "127.0.0.1:9"
_NO_LIMIT: Final = {"TIDINGS_USER_LIMIT": "0"}
#: the feed reaches every user, so that each user has a second channel
_WITH_FEED: Final = {"TIDINGS_INAPP__ENABLED": "true"}
_SUBJECT: Final = "event:9"
_CATEGORY: Final = "MESSAGE"
_PAGE_SIZE: Final = 1_000
_BATCH_SIZE: Final = 200
#: of ten users, the entries of those who have some
_ENTRIES: Final[dict[int, tuple[Preference, ...]]] = {
    5: (Preference(_CATEGORY, "webpush", True),),
    6: (Preference(ANY, "inapp", False), Preference(_CATEGORY, ANY, True)),
    7: (Preference(ANY, ANY, False, _SUBJECT), Preference(_CATEGORY, "webpush", True)),
    8: (Preference(_CATEGORY, ANY, True, condition=Condition("amount", Operator.GREATER_OR_EQUAL, 5)),),
    9: (Preference(_CATEGORY, ANY, False),),
}
#: of every fourth user
_NIGHT: Final = UserSchedule(quiet_hours=(QuietHours("22:00", "07:00"),))


@dataclass(frozen=True, slots=True)
class PlanRate:
    """How fast recipients were planned."""

    seconds: float
    recipients_per_second: float
    deliveries: int
    skips: int


@dataclass(frozen=True, slots=True)
class PlanBenchResult:
    """The figures of one run of `tidings bench plan`. Field names are those of the JSON output, in snake case."""

    recipients: int
    channels: int
    #: the rules alone, on one core
    rules: PlanRate
    #: pages are read and planned, nothing is stored
    read: PlanRate
    #: pages are read, planned and stored
    stored: PlanRate
    database: str

    def json_object(self) -> dict[str, object]:
        """Return the figures under their JSON names."""
        return to_camel_case(asdict(self))


async def run(*, recipients: int, folder: Path | None = None) -> PlanBenchResult:
    """Plan one notification to `recipients` users, in each way. No worker runs, and nothing is sent.

    folder: of the SQLite file; None = the system's folder for temporary files. Raises ConfigError for a database that
    is in use.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="tidings-bench-") as data:
        async with select_backends(Path(data), push_host=_PUSH_HOST, variables=_NO_LIMIT) as backends:
            await prepare_audience(backends, recipients=recipients, origin=f"http://{_PUSH_HOST}")
            async with AppContainer.open(backends.settings.with_channel_values(_WITH_FEED)) as runtime:
                await _add_choices(runtime, recipients)
                request = NotifyRequest(
                    _CATEGORY,
                    everyone(),
                    {"title": "Benchmark", "body": "Doors open at seven", "amount": 7},
                    channels=("webpush", "inapp"),
                    subject=SubjectRequest(_SUBJECT),
                )
                notification = await runtime.pipeline.submit(request)
                return PlanBenchResult(
                    recipients=recipients,
                    channels=len(notification.channels),
                    rules=measure_rules(runtime.pipeline.fan_out, notification, recipients),
                    read=await _measure_reading(runtime, notification),
                    stored=await _measure_storing(runtime, notification),
                    database=backends.database,
                )


def measure_rules(fan_out: FanOut, notification: Notification, recipients: int) -> PlanRate:
    """Plan recipients that are in memory, and return the figures in CPU time of one core."""
    page = [_build_recipient(number) for number in range(min(recipients, _PAGE_SIZE))]
    now, plans, seconds = notification.created_at, _Totals(), 0.0
    ids = generate_ids(_BATCH_SIZE, now)
    fan_out.build_plan(notification, page, now, ids)  # fills the caches of time zones
    for start in range(0, recipients, _PAGE_SIZE):
        of_page = page[: recipients - start]
        started = time.process_time()
        plan = fan_out.build_plan(notification, of_page, now, ids)
        seconds += time.process_time() - started
        plans.add(len(of_page), plan)
    return plans.summarize(seconds)


async def _measure_reading(runtime: AppContainer, notification: Notification) -> PlanRate:
    fan_out, plans, after = runtime.pipeline.fan_out, _Totals(), None
    started = time.perf_counter()
    has_more = True
    while has_more:
        async with runtime.store.read_snapshot() as tx:
            page, has_more = await fan_out.load_page(tx, notification, after)
        now = runtime.clock.now()
        plans.add(len(page), fan_out.build_plan(notification, page, now, generate_ids(_BATCH_SIZE, now)))
        after = page[-1].user_id
    return plans.summarize(time.perf_counter() - started)


async def _measure_storing(runtime: AppContainer, notification: Notification) -> PlanRate:
    started = time.perf_counter()
    while await runtime.pipeline.fan_out.plan_next_pages([notification.id]):
        pass
    seconds = time.perf_counter() - started
    async with runtime.store.read_snapshot() as tx:
        counts = await runtime.store.notifications.get_counts(tx, notification.id)
    return _Totals(counts.recipients, counts.deliveries, counts.skipped).summarize(seconds)


@dataclass(slots=True)
class _Totals:
    recipients: int = 0
    deliveries: int = 0
    skips: int = 0

    def add(self, recipients: int, plan: Plan) -> None:
        self.recipients += recipients
        self.deliveries += len(plan.planned)
        self.skips += len(plan.skipped)

    def summarize(self, seconds: float) -> PlanRate:
        per_second = round(self.recipients / max(seconds, 1e-9), 1)
        return PlanRate(round(seconds, 3), per_second, self.deliveries, self.skips)


def _build_recipient(number: int) -> Recipient:
    user_id = f"u{number:07}"
    schedule = _NIGHT if number % 4 == 1 else NO_SCHEDULE
    entries = _ENTRIES.get(number % 10, ())
    return Recipient(user_id, "en", "Europe/Berlin", entries, {"webpush": (user_id,)}, schedule)


async def _add_choices(runtime: AppContainer, recipients: int) -> None:
    """Store the preferences and schedules of `_build_recipient`."""
    numbers, now = range(recipients), runtime.clock.now()
    entries = [
        {
            "user_id": f"u{number:07}",
            "category": entry.category,
            "channel": entry.channel,
            "subject": entry.subject,
            "enabled": entry.enabled,
            "condition": None if entry.condition is None else entry.condition.to_json(),
        }
        for number in numbers
        for entry in _ENTRIES.get(number % 10, ())
    ]
    night = {"quiet_hours": encode_quiet_hours(_NIGHT.quiet_hours), "updated_at": now}
    schedules = [{"user_id": f"u{number:07}", **night} for number in numbers if number % 4 == 1]
    for table, rows in ((preferences, entries), (user_schedules, schedules)):
        for start in range(0, len(rows), _PAGE_SIZE):
            async with runtime.store.transaction() as tx:
                await connection_of(tx).execute(insert(table), rows[start : start + _PAGE_SIZE])
    await analyze(runtime)
