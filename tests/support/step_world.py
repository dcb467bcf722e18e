"""Processes that send notifications with steps: the flow over four channels, with a frozen clock and feeds."""

from collections.abc import Callable, Collection, Mapping, Sequence

from tidings.flow.catalog import Catalog
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.preflight import DeliveryJob
from tidings.flow.deliver.render_cache import RenderCache
from tidings.flow.deliver.sender import DeliverySender
from tidings.flow.deliver.step_check import StepCheck
from tidings.flow.fanout.limits import RateLimitPolicy
from tidings.flow.pipeline import Pipeline, PipelineConfig
from tidings.inbox_service import InboxService
from tidings.model.audience import Audience, users
from tidings.model.channel import ChannelTraits
from tidings.model.delivery import AttemptResult, ClaimedDelivery, OutboundMessage
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.outcome import Accepted, Outcome
from tidings.model.plan_options import PlanOptions, Step
from tidings.model.priority import LANES, Priority
from tidings.model.request import NotifyRequest
from tidings.model.subject import SubjectRequest
from tidings.model.template import Category, RenderedMessage, Template, TemplateText
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.model.user import User
from tidings.model.waiting_step import WaitingStep
from tidings.observability.alerts import AlertRegistry
from tidings.packs import core
from tidings.ports.channel import ComposeContext
from tidings.ports.pack import Pack
from tidings.queues.memory_queue import MemoryQueue
from tidings.realtime.memory_broadcaster import MemoryBroadcaster
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock

CHANNELS = ("inapp", "email", "sms", "webhook")
UNLESS_SEEN = (Step(("inapp",)), Step(("email",), 600, "seen"))
PACK = Pack(
    name="plan",
    categories=(Category("PLAN", "Plans"),),
    templates=tuple(
        Template(
            code=code,
            category="PLAN",
            priority=Priority.HIGH,
            texts={"en": TemplateText("{{ title }}", "")},
            plan=PlanOptions(steps=steps),
        )
        for code, steps in (("PLAIN", ()), ("ESCALATED", UNLESS_SEEN))
    ),
)
TRAITS = {"inapp": ChannelTraits(needs_contact_point=False)}


class RecordingChannel:
    """A channel that records messages and returns the outcome of `respond`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[OutboundMessage] = []
        self.respond: Callable[[OutboundMessage], Outcome] = lambda _message: Accepted()

    async def open(self) -> None:
        """Starts nothing."""

    def compose(self, content: RenderedMessage, _context: ComposeContext) -> bytes:
        return content.title.encode()

    async def send(self, message: OutboundMessage) -> Outcome:
        self.sent.append(message)
        return self.respond(message)

    async def close(self) -> None:
        """Closes nothing."""


class StepWorld:
    """One process on a store. Several may share the store, the clock and the channels."""

    def __init__(
        self,
        store: SqlStore,
        clock: FrozenClock,
        channels: dict[str, RecordingChannel] | None = None,
        *,
        channels_with_hooks: Sequence[str] = (),
        receipt_categories: Mapping[str, Collection[str]] | None = None,
        rate_limits: RateLimitPolicy | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.channels = channels or {name: RecordingChannel(name) for name in CHANNELS}
        catalog = Catalog.from_packs([core.pack, PACK], channels=CHANNELS, known_channels=CHANNELS, traits=TRAITS)
        renderer = MinijinjaRenderer(catalog.filters, "https://shop.example")
        self.queue = MemoryQueue(clock)
        self.alerts = AlertRegistry(clock)
        self.pipeline = Pipeline(
            store,
            self.queue,
            catalog,
            renderer,
            clock,
            config=PipelineConfig(
                channels_with_hooks=channels_with_hooks,
                receipt_categories=receipt_categories or {},
                rate_limits=rate_limits or RateLimitPolicy(),
            ),
            alerts=self.alerts,
        )
        self.sender = DeliverySender(
            self.channels,
            RenderCache(renderer, catalog),
            SendLimiter(10),
            clock,
            self._record,
            update_step=StepCheck(store, clock).update,
        )
        self.pipeline.cancellations.on_stopped(self.sender.mark_stopped)
        self.pipeline.has_local_consumer = True
        self.inbox = InboxService(store, clock, MemoryBroadcaster())

    async def _record(self, result: AttemptResult) -> None:
        await self.pipeline.record([result])

    async def add_users(self, *ids: str, channels: Sequence[str] = ("email", "sms")) -> None:
        """Store users who can be reached in-app and on some channels."""
        people = [
            User(
                name,
                email=f"{name}@example.org" if "email" in channels else None,
                phone=f"+4915112345{number:03}" if "sms" in channels else None,
            )
            for number, name in enumerate(ids)
        ]
        async with self.store.transaction() as tx:
            await self.store.users.upsert(tx, people, self.clock.now())

    async def notify(
        self,
        *steps: Step,
        to: Sequence[str] = ("ana",),
        channels: Sequence[str] = (),
        template: str = "PLAIN",
        subject: str | None = None,
        audience: Audience | None = None,
        priority: Priority | None = None,
    ) -> Notification:
        """Accept a notification and send what is due of it. No steps = those of the template."""
        request = self.build_request(
            *steps,
            to=to,
            channels=channels,
            template=template,
            subject=subject,
            audience=audience,
            priority=priority,
        )
        notification = await self.pipeline.submit(request)
        await self.work()
        return notification

    def build_request(
        self,
        *steps: Step,
        to: Sequence[str] = ("ana",),
        channels: Sequence[str] = (),
        template: str = "PLAIN",
        subject: str | None = None,
        audience: Audience | None = None,
        priority: Priority | None = None,
    ) -> NotifyRequest:
        return NotifyRequest(
            template,
            audience or users(*to),
            {"title": "Hello"},
            channels=tuple(channels),
            steps=steps or None,
            subject=None if subject is None else SubjectRequest(subject),
            priority=priority,
        )

    async def work(self, seconds: float = 0) -> None:
        """Let time pass, then do all that is due."""
        self.clock.advance(seconds)
        while True:
            worked = await self.pipeline.outbox_relay.relay()
            worked += await self.pipeline.step_runner.start_due() + await self.pipeline.batch_due()
            for lane in LANES:
                for task in await self.queue.receive(lane, 100) if (await self.queue.stats(lane)).waiting else []:
                    worked += 1
                    if task.kind.value == "fan_out":
                        await self.queue.publish(await self.pipeline.fan_out.plan_next_pages([task.ref]))
                    else:
                        await self.pipeline.delivery_runner.deliver([task.ref], self.sender)
            if not worked:
                return

    async def claim_all(self, token: str) -> Sequence[DeliveryJob]:
        """Claim what waits to be sent, and do not send it."""
        await self.pipeline.batch_due()
        async with self.store.read_snapshot() as tx:
            tasks = await self.store.deliveries.list_pending_batches(tx, after=None, limit=100)
        return await self.pipeline.delivery_runner._claim([task.ref for task in tasks], token) if tasks else []

    async def claim_and_crash(self) -> None:
        """Let a worker die while it sends what is due."""
        for lane in LANES:
            for task in await self.queue.receive(lane, 100) if (await self.queue.stats(lane)).waiting else []:
                if task.kind.value == "fan_out":
                    await self.pipeline.fan_out.plan_next_pages([task.ref])
        await self.claim_all(new_id(self.clock.now()))
        self.clock.advance(61)
        async with self.store.transaction() as tx:
            await self.store.deliveries.reap_expired_leases(tx, self.clock.now())

    async def fail_reload(self, _claimed: Sequence[ClaimedDelivery]) -> Sequence[DeliveryJob]:
        """Stand for a reload that must not be needed, as the data is recent."""
        raise AssertionError("the data is recent")

    def count_sent(self) -> dict[str, int]:
        """Return channel → messages that were sent, of the channels with some."""
        return {name: len(channel.sent) for name, channel in self.channels.items() if channel.sent}

    async def list_steps(self, notification: Notification) -> Sequence[WaitingStep]:
        async with self.store.read_snapshot() as tx:
            return await self.store.steps.list_of(tx, notification.id, limit=100)

    async def list_deliveries(self, notification: Notification) -> Sequence[DeliveryTrace]:
        async with self.store.read_snapshot() as tx:
            return await self.store.deliveries.list_with_attempts(
                tx, notification.id, user_id=None, after=None, limit=100
            )

    async def list_skips(self, notification: Notification) -> Sequence[SkipTrace]:
        async with self.store.read_snapshot() as tx:
            return await self.store.deliveries.list_skips(tx, notification.id, user_id=None, after=None, limit=100)
