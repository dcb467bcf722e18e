"""A device registers anew while a message to its old endpoint is in flight or waits for a retry: nothing is lost."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from tidings.channels.webpush.server_keys import get_channel
from tidings.config.settings import Settings
from tidings.container import AppContainer
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.sender import DeliverySender
from tidings.model import audience
from tidings.model.delivery import AttemptResult, OutboundMessage
from tidings.model.ids import new_id
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.model.plan_options import Step
from tidings.model.request import NotifyRequest
from tidings.model.subscription import PushSubscription, SubscriptionState
from tidings.model.template import RenderedMessage
from tidings.model.trace import DeliveryTrace
from tidings.model.user import User
from tidings.model.waiting_step import StepCause
from tidings.ports.channel import ComposeContext

OLD, NEW = "https://push.example/old", "https://push.example/new"


class ScriptedChannel:
    """A channel that runs a step during each send and then answers for the endpoint that it was given."""

    name = "webpush"

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.during_send: Callable[[], Awaitable[None]] | None = None
        self.answer: Outcome = InvalidTarget("gone", 410)
        self.answer_of_others: Outcome = Accepted()

    async def open(self) -> None:
        """Nothing to start."""

    def compose(self, content: RenderedMessage, _context: ComposeContext) -> bytes:
        return content.title.encode()

    async def send(self, message: OutboundMessage) -> Outcome:
        self.sent.append(message.target.address)
        if message.target.address != OLD:
            return self.answer_of_others
        if self.during_send is not None:
            await self.during_send()
        return self.answer

    async def close(self) -> None:
        """Nothing to end."""


class Worker:
    """A worker with one user, Ana, and her device."""

    def __init__(self, runtime: AppContainer) -> None:
        self.runtime = runtime
        self.channel = ScriptedChannel()
        self.sender = DeliverySender(
            {"webpush": self.channel}, runtime.render_cache, SendLimiter(3), runtime.clock, self._record
        )

    async def _record(self, result: AttemptResult) -> None:
        await self.runtime.pipeline.record([result])

    async def register(self, endpoint: str, *, replaces: str | None = None, user_id: str = "ana") -> None:
        """Register a browser."""
        [key, *_] = get_channel(self.runtime.channels).key_ring.active_ids
        now = self.runtime.clock.now()
        device = PushSubscription(new_id(now), user_id, endpoint, b"\x04" * 65, b"a" * 16, key)
        async with self.runtime.store.transaction() as tx:
            await self.runtime.store.subscriptions.register(tx, device, replaces=replaces, now=now)

    async def notify(self, *steps: Step) -> str:
        """Plan a message to Ana and return its id."""
        request = NotifyRequest(
            "MESSAGE", audience.users("ana"), {"title": "Hello", "body": "Ana"}, steps=steps or None
        )
        async with self.runtime.store.transaction() as tx:
            [accepted] = await self.runtime.pipeline.accept_many(tx, [request])
        return accepted.id if not isinstance(accepted, Exception) else ""

    async def deliver(self) -> None:
        """Send what is planned or due."""
        store = self.runtime.store
        async with store.transaction() as tx:
            await store.deliveries.batch_due(tx, self.runtime.clock.now() + timedelta(minutes=5), 100)
            batches = [task.ref for task in await store.deliveries.list_pending_batches(tx, after=None, limit=100)]
        await self.runtime.pipeline.delivery_runner.deliver(batches, self.sender)

    async def traces(self, notification_id: str) -> Sequence[DeliveryTrace]:
        """Return the deliveries of a notification."""
        async with self.runtime.store.read_snapshot() as tx:
            return await self.runtime.store.deliveries.list_with_attempts(
                tx, notification_id, user_id=None, after=None, limit=9
            )

    async def device_states(self) -> list[tuple[str, SubscriptionState]]:
        """Return endpoint and state of Ana's devices."""
        async with self.runtime.store.read_snapshot() as tx:
            devices = await self.runtime.store.subscriptions.list_by_user(tx, "ana")
        return [(device.endpoint, device.state) for device in devices]


@pytest.fixture(params=["sqlite", "postgresql"])
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker whose user has registered the old endpoint."""
    settings = Settings(data_dir=tmp_path)
    if request.param == "postgresql":
        settings = Settings(data_dir=tmp_path, database=request.getfixturevalue("postgres_url"))
    async with AppContainer.open(settings) as runtime:
        async with runtime.store.transaction() as tx:
            await runtime.store.users.upsert(tx, [User("ana"), User("ben")], runtime.clock.now())
        made = Worker(runtime)
        await made.register(OLD)
        yield made


async def test_an_end_answered_after_the_device_registered_anew_is_retried_on_the_new_endpoint(worker: Worker) -> None:
    worker.channel.during_send = lambda: worker.register(NEW, replaces=OLD)
    message = await worker.notify()
    await worker.deliver()
    assert await worker.device_states() == [(NEW, SubscriptionState.ACTIVE)]
    [waiting] = await worker.traces(message)
    assert (waiting.state, len(waiting.attempts)) == ("pending", 1)
    await worker.deliver()
    [delivered] = await worker.traces(message)
    assert (delivered.state, len(delivered.attempts)) == ("delivered", 2)
    assert worker.channel.sent == [OLD, NEW]


async def test_a_message_that_waits_for_the_old_endpoint_is_sent_to_the_new_one(worker: Worker) -> None:
    soon = worker.runtime.clock.now() + timedelta(minutes=1)
    worker.channel.answer = RetryLater(soon, "too many requests", 429, counts_as_attempt=False)
    message = await worker.notify()
    await worker.deliver()
    await worker.register(NEW, replaces=OLD)
    await worker.deliver()
    assert [trace.state for trace in await worker.traces(message)] == ["delivered"]
    assert worker.channel.sent == [OLD, NEW]


async def test_a_message_that_waits_does_not_follow_the_device_to_another_user(worker: Worker) -> None:
    soon = worker.runtime.clock.now() + timedelta(minutes=1)
    worker.channel.answer = RetryLater(soon, "too many requests", 429, counts_as_attempt=False)
    message = await worker.notify()
    await worker.deliver()
    await worker.register(OLD, user_id="ben")
    await worker.register(NEW, replaces=OLD, user_id="ben")
    await worker.deliver()
    assert [(trace.state, trace.why) for trace in await worker.traces(message)] == [("skipped", "no_device")]
    assert worker.channel.sent == [OLD]


async def test_c41_the_next_step_does_not_wait_for_a_device_that_was_replaced(worker: Worker) -> None:
    await worker.register(NEW)
    notification = await worker.notify(Step(("webpush",)), Step(("email",), 3600))
    worker.channel.answer = RetryLater(worker.runtime.clock.now() + timedelta(hours=1), "busy", 503)
    worker.channel.answer_of_others = PermanentFailure("too large", 413)
    await worker.deliver()
    store = worker.runtime.store
    async with store.read_once() as tx:
        [step] = await store.steps.list_of(tx, notification, limit=9)
    assert step.due_at is None, "the old endpoint is tried again"
    await worker.register(NEW, replaces=OLD)
    async with store.read_once() as tx:
        [step] = await store.steps.list_of(tx, notification, limit=9)
    assert step.due_at is not None
    assert (step.due_at <= worker.runtime.clock.now(), step.cause) == (True, StepCause.NOT_HANDED_OVER)
