"""A small catalog with a renderer, and processes that share a database, with a controllable queue and channel."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from tidings.errors import BackendError
from tidings.flow.catalog import Catalog
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.render_cache import RenderCache
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.flow.pipeline import Pipeline, PipelineConfig
from tidings.flow.recover.reconciler import Reconciler
from tidings.model import ids
from tidings.model.audience import Audience, users
from tidings.model.delivery import AttemptResult, OutboundMessage
from tidings.model.notification import Notification, NotificationCounts
from tidings.model.outcome import Accepted, Outcome
from tidings.model.priority import LANES, Lane, Priority
from tidings.model.request import NotifyRequest
from tidings.model.task import Task
from tidings.model.template import Category, RenderedMessage, Template, TemplateText
from tidings.model.user import User
from tidings.observability.alerts import AlertRegistry
from tidings.packs import core, events
from tidings.ports.channel import ComposeContext
from tidings.ports.clock import Clock
from tidings.ports.pack import Pack
from tidings.queues.memory_queue import MemoryQueue
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import make_subscription

NEWS = Pack(
    name="news",
    categories=(Category("NEWS", "News"), Category("DUTY", "Duties", mandatory=True)),
    templates=(
        Template(
            code="NEWS",
            category="NEWS",
            priority=Priority.HIGH,
            texts={"en": TemplateText("{{ title }}", "{{ body }}{{ more }}")},
            optional=frozenset({"more"}),
            url="{{ link or '/' }}",
            defaults={"link": None},
        ),
        Template(code="DUTY", category="DUTY", priority=Priority.HIGH, texts={"en": TemplateText("{{ title }}", "")}),
    ),
)


class FakeChannel:
    """A channel that records messages and returns the outcome of `respond`."""

    name = "webpush"

    def __init__(self) -> None:
        self.sent: list[OutboundMessage] = []
        self.respond: Callable[[OutboundMessage], Outcome] = lambda _message: Accepted(status=201)
        self.max_in_flight = self.in_flight = 0
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    async def open(self) -> None:
        """Starts nothing."""

    def compose(self, content: RenderedMessage, _context: ComposeContext) -> bytes:
        return f"{content.title}: {content.body}".encode()

    async def send(self, message: OutboundMessage) -> Outcome:
        self.sent.append(message)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        await self.unblocked.wait()
        self.in_flight -= 1
        return self.respond(message)

    async def close(self) -> None:
        """Closes nothing."""


class RecordingQueue(MemoryQueue):
    """An in-memory queue that counts as shared, records published tasks, and can be made unavailable."""

    def __init__(self, clock: Clock, *, shared: bool = True) -> None:
        super().__init__(clock)
        self.is_shared = shared
        self.is_unavailable = False
        self.published: list[Task] = []
        self.nacked: list[tuple[Task, datetime, str]] = []
        self.acked: list[Task] = []

    async def publish(self, tasks: Sequence[Task]) -> None:
        if self.is_unavailable:
            raise BackendError("the queue does not answer")
        self.published += tasks
        await super().publish(tasks)

    async def instance_id(self) -> str:
        if self.is_unavailable:
            raise BackendError("the queue does not answer")
        return await super().instance_id()

    async def ack(self, tasks: Sequence[Task]) -> None:
        self.acked += tasks
        await super().ack(tasks)

    async def nack(self, tasks: Sequence[Task], *, retry_at: datetime, why: str) -> None:
        self.nacked += [(task, retry_at, why) for task in tasks]
        await super().nack(tasks, retry_at=retry_at, why=why)

    async def receive_due(self, lane: Lane = Lane.HIGH, limit: int = 100) -> Sequence[Task]:
        """Return the due tasks of a lane without waiting."""
        return await self.receive(lane, limit) if (await self.stats(lane)).waiting else []


class Process:
    """The flow of one process on the database of the test."""

    def __init__(
        self,
        store: SqlStore,
        clock: FrozenClock,
        catalog: Catalog,
        channel: FakeChannel,
        *,
        queue: RecordingQueue | None = None,
        sizes: PipelineConfig | None = None,
        limits: RateLimitPolicy | None = None,
        exclusive: bool = False,
        channels: Mapping[str, FakeChannel] | None = None,
    ) -> None:
        renderer = MinijinjaRenderer(catalog.filters, "https://shop.example")
        self.store = store
        self.clock = clock
        self.queue = queue or RecordingQueue(clock)
        self.alerts = AlertRegistry(clock)
        self.pipeline = Pipeline(
            store,
            self.queue,
            catalog,
            renderer,
            clock,
            config=replace(sizes or PipelineConfig(), rate_limits=limits or RateLimitPolicy(), is_exclusive=exclusive),
            alerts=self.alerts,
        )
        self.recovery = Reconciler(store, self.queue, clock, is_exclusive=exclusive)
        self.channel = channel
        self.unwritten: list[AttemptResult] = []
        #: whether outcomes are written immediately or by `write`
        self.writes_immediately = True
        self.flush_requested = asyncio.Event()
        self.sender = DeliverySender(
            channels or {"webpush": channel},
            RenderCache(renderer, catalog),
            SendLimiter(10),
            clock,
            self._record,
            self.flush_requested.set,
        )
        self.pipeline.cancellations.on_stopped(self.sender.mark_stopped)
        self.pipeline.has_local_consumer = True

    async def _record(self, result: AttemptResult) -> None:
        self.unwritten.append(result)
        if self.writes_immediately:
            await self.write()

    async def write(self) -> None:
        """Write the buffered outcomes."""
        results, self.unwritten = self.unwritten, []
        await self.pipeline.record(results)

    async def add_users(self, *names: str) -> None:
        """Store users with one device each."""
        async with self.store.transaction() as tx:
            await self.store.users.upsert(tx, [User(name) for name in names], self.clock.now())
            for name in names:
                await self.store.subscriptions.register(
                    tx, make_subscription(name, name), replaces=None, now=self.clock.now()
                )

    async def submit(self, *names: str, template: str = "NEWS", to: Audience | None = None) -> Notification:
        """Accept a notification to users or to an audience."""
        return await self.pipeline.submit(self.build_request(to or users(*names), template))

    def build_request(self, audience: Audience, template: str = "NEWS") -> NotifyRequest:
        """Return a request to notify an audience."""
        return NotifyRequest(template, audience, {"title": "Hello"} | ({"body": "World"} if template == "NEWS" else {}))

    async def plan(self, *notifications: Notification) -> None:
        """Plan all pages of notifications."""
        notification_ids = [notification.id for notification in notifications]
        while notification_ids:
            notification_ids = [task.ref for task in await self.pipeline.fan_out.plan_next_pages(notification_ids)]

    async def process_queue(self) -> None:
        """Process all due tasks of the queue."""
        while tasks := [task for lane in LANES for task in await self.queue.receive_due(lane)]:
            for task in tasks:
                await self._process(task)

    async def _process(self, task: Task) -> None:
        match task.kind.value:
            case "fan_out":
                await self.queue.publish(await self.pipeline.fan_out.plan_next_pages([task.ref]))
            case "deliver":
                await self.pipeline.delivery_runner.deliver([task.ref], self.sender)
            case _:
                await self.pipeline.delivery_runner.deliver_separately(task.ref, self.sender)

    async def get_counts(self, notification: Notification) -> NotificationCounts:
        async with self.store.read_snapshot() as tx:
            return await self.store.notifications.get_counts(tx, notification.id)

    async def count_by_state(self, notification: Notification) -> Mapping[str, int]:
        """Return the number of deliveries per state."""
        return (await self.get_counts(notification)).by_state


@pytest.fixture(autouse=True)
def _reset_id_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the id generator, so that ids have the time of the test's clock."""
    monkeypatch.setattr(ids, "_last_ticks", 0)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.from_packs(
        [core.pack, events.pack, NEWS], channels=("webpush",), known_channels=("webpush", "email")
    )


@pytest.fixture
def renderer(catalog: Catalog) -> MinijinjaRenderer:
    return MinijinjaRenderer(catalog.filters, "https://shop.example")


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
def start(store: SqlStore, clock: FrozenClock, catalog: Catalog, channel: FakeChannel) -> Callable[..., Process]:
    """Return a function that starts a process. Processes share a queue when it is passed to them."""

    def start_process(**options: object) -> Process:
        return Process(store, clock, catalog, channel, **options)  # type: ignore[arg-type]  # checked by Process

    return start_process


@pytest.fixture
def process(start: Callable[..., Process]) -> Process:
    return start()
