"""A small catalog and its wording; processes that share a database, with a queue and a channel that do as told."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import pytest

from tidings.errors import BackendError
from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.deliver.send import Sender
from tidings.flow.intake.catalog import Catalog
from tidings.flow.pipeline import Pipeline, Sizes
from tidings.flow.plan.limit import Limits
from tidings.flow.recovery import Recovery
from tidings.model import ids
from tidings.model.audience import Audience, users
from tidings.model.delivery import Attempted, Message
from tidings.model.notification import Counts, Notification
from tidings.model.outcome import Delivered, Outcome
from tidings.model.priority import LANES, Lane, Priority
from tidings.model.request import NotifyRequest
from tidings.model.task import Task
from tidings.model.template import Category, Content, Template, Wording
from tidings.model.user import User
from tidings.packs import core, events
from tidings.ports.clock import Clock
from tidings.ports.pack import Pack
from tidings.queues.local import LocalQueue
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import a_subscription
from tidings.wording import MinijinjaWording

NEWS = Pack(
    name="news",
    categories=(Category("NEWS", "News"), Category("DUTY", "Duties", mandatory=True)),
    templates=(
        Template(
            code="NEWS",
            category="NEWS",
            priority=Priority.HIGH,
            words={"en": Wording("{{ title }}", "{{ body }}{{ more }}")},
            optional=frozenset({"more"}),
            url="{{ link or '/' }}",
            defaults={"link": None},
        ),
        Template(code="DUTY", category="DUTY", priority=Priority.HIGH, words={"en": Wording("{{ title }}", "")}),
    ),
)


class Wire:
    """A channel that keeps what it is given and answers as told."""

    name = "webpush"

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.answer: Callable[[Message], Outcome] = lambda _message: Delivered(status=201)
        self.most = self.now = 0
        self.open_ = asyncio.Event()
        self.open_.set()

    async def open(self) -> None:
        """Nothing to start."""

    def encode(self, content: Content, *, notification_id: str, delivery_id: str) -> bytes:
        return f"{content.title}: {content.body}".encode()

    async def send(self, message: Message) -> Outcome:
        self.sent.append(message)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.open_.wait()
        self.now -= 1
        return self.answer(message)

    async def close(self) -> None:
        """Nothing to end."""


class ToldQueue(LocalQueue):
    """A queue in memory that counts as shared, keeps what it was told, and can be away."""

    def __init__(self, clock: Clock, *, shared: bool = True) -> None:
        super().__init__(clock)
        self.shared = shared
        self.away = False
        self.told: list[Task] = []
        self.given_back: list[tuple[Task, datetime, str]] = []
        self.finished: list[Task] = []

    async def publish(self, tasks: Sequence[Task]) -> None:
        if self.away:
            raise BackendError("the queue does not answer")
        self.told += tasks
        await super().publish(tasks)

    async def epoch(self) -> str:
        if self.away:
            raise BackendError("the queue does not answer")
        return await super().epoch()

    async def done(self, tasks: Sequence[Task]) -> None:
        self.finished += tasks
        await super().done(tasks)

    async def again(self, tasks: Sequence[Task], *, at: datetime, why: str) -> None:
        self.given_back += [(task, at, why) for task in tasks]
        await super().again(tasks, at=at, why=why)

    async def taken(self, lane: Lane = Lane.HIGH, limit: int = 100) -> Sequence[Task]:
        """Return what is due on a lane now, nothing if nothing is."""
        return await self.take(lane, limit) if (await self.stats(lane)).waiting else []


class Process:
    """One process's flow on the database of the test."""

    def __init__(
        self,
        store: SqlStore,
        clock: FrozenClock,
        catalog: Catalog,
        wire: Wire,
        *,
        queue: ToldQueue | None = None,
        sizes: Sizes | None = None,
        limits: Limits | None = None,
        exclusive: bool = False,
    ) -> None:
        wording = MinijinjaWording(catalog.filters, "https://shop.example")
        self.store = store
        self.clock = clock
        self.queue = queue or ToldQueue(clock)
        self.pipeline = Pipeline(
            store,
            self.queue,
            catalog,
            wording,
            clock,
            sizes=sizes or Sizes(),
            limits=limits or Limits(),
            exclusive=exclusive,
        )
        self.recovery = Recovery(store, self.queue, clock, exclusive=exclusive)
        self.wire = wire
        self.unwritten: list[Attempted] = []
        #: outcomes are written at once, or when the test says so
        self.writes_at_once = True
        self.hurried = asyncio.Event()
        self.sender = Sender(
            {"webpush": wire}, Renderings(wording, catalog.templates), Gate(10), clock, self._recorded, self.hurried.set
        )
        self.pipeline.on_cancel(self.sender.cancelled)
        self.pipeline.attended = True

    async def _recorded(self, attempted: Attempted) -> None:
        self.unwritten.append(attempted)
        if self.writes_at_once:
            await self.write()

    async def write(self) -> None:
        """Write the outcomes that wait."""
        some, self.unwritten = self.unwritten, []
        await self.pipeline.record(some)

    async def people(self, *names: str) -> None:
        """Store users with one device each."""
        async with self.store.begin() as tx:
            await self.store.users.upsert(tx, [User(name) for name in names], self.clock.now())
            for name in names:
                await self.store.subscriptions.register(
                    tx, a_subscription(name, name), replaces=None, now=self.clock.now()
                )

    async def tell(self, *names: str, template: str = "NEWS", to: Audience | None = None) -> Notification:
        """Accept a notification to users by name, or to an audience."""
        return await self.pipeline.submit(self.asks(to or users(*names), template))

    def asks(self, audience: Audience, template: str = "NEWS") -> NotifyRequest:
        """Return a request to tell an audience something."""
        return NotifyRequest(template, audience, {"title": "Hello"} | ({"body": "World"} if template == "NEWS" else {}))

    async def plan(self, *notifications: Notification) -> None:
        """Plan notifications to their end."""
        wanted = [one.id for one in notifications]
        while wanted:
            wanted = [task.ref for task in await self.pipeline.fan_out_many(wanted)]

    async def work(self) -> None:
        """Do all that is due on the queue, by hand."""
        while tasks := [task for lane in LANES for task in await self.queue.taken(lane)]:
            for task in tasks:
                await self._do(task)

    async def _do(self, task: Task) -> None:
        match task.kind.value:
            case "fan_out":
                await self.queue.publish(await self.pipeline.fan_out_many([task.ref]))
            case "deliver":
                await self.pipeline.deliver([task.ref], self.sender)
            case _:
                await self.pipeline.deliver_alone(task.ref, self.sender)

    async def counts(self, notification: Notification) -> Counts:
        async with self.store.read() as tx:
            return await self.store.notifications.counts(tx, notification.id)

    async def states(self, notification: Notification) -> Mapping[str, int]:
        """Return how many deliveries of a notification are in each state."""
        return (await self.counts(notification)).by_state


@pytest.fixture(autouse=True)
def _ids_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ids tell the time of the test's clock, whatever later time an earlier test has made ids of."""
    monkeypatch.setattr(ids, "_last", 0)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.of([core.pack, events.pack, NEWS], channels=("webpush",), known_channels=("webpush", "email"))


@pytest.fixture
def wording(catalog: Catalog) -> MinijinjaWording:
    return MinijinjaWording(catalog.filters, "https://shop.example")


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def start(store: SqlStore, clock: FrozenClock, catalog: Catalog, wire: Wire) -> Callable[..., Process]:
    """Start a process; those that share a queue are told which."""

    def started(**options: object) -> Process:
        return Process(store, clock, catalog, wire, **options)  # type: ignore[arg-type]  # checked by Process

    return started


@pytest.fixture
def process(start: Callable[..., Process]) -> Process:
    return start()
