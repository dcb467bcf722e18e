"""Send claimed deliveries with bounded concurrency and hand each outcome over as soon as it is there."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
import structlog

from tidings.errors import Invalid
from tidings.flow.deliver.destination import Addressing, Destination
from tidings.flow.deliver.gate import Gate
from tidings.flow.deliver.recheck import objection
from tidings.flow.deliver.renderings import Renderings
from tidings.flow.deliver.stragglers import Runner, Stragglers
from tidings.model.delivery import Attempted, Due, Message, Skipped, SkipReason
from tidings.model.notification import Notification
from tidings.model.outcome import Deferred, Outcome
from tidings.model.template import Category
from tidings.ports.channel import Channel
from tidings.ports.clock import Clock

log = structlog.get_logger(__name__)

#: wait after a bug in a channel, per attempt spent
AFTER_A_BUG = timedelta(seconds=2)
#: a send must be over before its lease is, so it gets no more time than this
LONGEST_SEND = timedelta(seconds=20)
#: ids of cancelled notifications remembered; older ones have long been read from the database as cancelled
REMEMBERED = 10_000


class Job(msgspec.Struct, frozen=True):
    """One claimed delivery with its notification."""

    due: Due
    notification: Notification
    category: Category
    #: whether the user was still in the audience when last looked up
    in_audience: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """Jobs of one call that go to one destination; None = to none that is known."""

    destination: Destination | None
    #: not yet begun, the next one last
    waiting: list[Job] = field(default_factory=list)


async def _at_once() -> None:
    """Wait for nothing."""


class Sender:
    """Sends jobs over their channels."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        renderings: Renderings,
        gate: Gate,
        clock: Clock,
        recorded: Callable[[Attempted], Awaitable[None]],
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`recorded` takes each outcome, `idle` is called when a batch has ended and nothing else is in flight."""
        self._channels = channels
        self._renderings = renderings
        self._gate = gate
        self._clock = clock
        self._recorded = recorded
        self._idle = idle
        self._addressing = {name: one for name, one in channels.items() if isinstance(one, Addressing)}
        self._stragglers = Stragglers()
        self._cancelled: dict[str, None] = {}
        self._held: Counter[str] = Counter()
        self._stopping = False

    @property
    def held(self) -> Collection[str]:
        """Ids of the notifications that have deliveries here, in flight or waiting for a place."""
        return self._held.keys()

    def cancelled(self, notification_id: str) -> None:
        """Send nothing of this notification any more, not even what is claimed already."""
        self._cancelled[notification_id] = None
        if len(self._cancelled) > REMEMBERED:
            del self._cancelled[next(iter(self._cancelled))]

    def stop(self) -> None:
        """Let what is in flight end and start nothing new."""
        self._stopping = True

    def urgent_work(self) -> AbstractContextManager[None]:
        """Return a block for urgent work before its send: other sends make room for it (`Turns.urgent_work`)."""
        return self._gate.urgent_work()

    def hurry(self) -> None:
        """Have outcomes written at once: somebody waits for them."""
        self._idle()

    async def send(self, jobs: Iterable[Job], *, informed: Callable[[], Awaitable[None]] = _at_once) -> Sequence[Job]:
        """Send jobs, as many at once as the gate lets in. Returns those left over because of `stop`.

        informed: awaited before each send; returns once it is known what was cancelled lately.
        """
        groups = self._grouped(jobs)
        held = Counter(job.notification.id for group in groups for job in group.waiting)
        self._held += held

        async def running(runner: Runner, group: _Group) -> None:
            # stopped, and still here: the library of a channel returned its answer instead of being cancelled
            while group.waiting and not self._stopping and not runner.is_stopped:
                await self._one(group, runner, informed)

        async def look() -> bool:
            for group in groups:
                await self._hold_back(group)
            return not any(group.waiting for group in groups)

        runners = [
            (runner, running(runner, group))
            for group in groups
            for runner in (Runner() for _ in range(min(len(group.waiting), self._gate.places)))
        ]
        try:
            await self._stragglers.until_done(runners, look)
        finally:
            self._held -= held
        if not self._gate.in_flight:
            self._idle()
        return [job for group in groups for job in group.waiting]

    def _grouped(self, jobs: Iterable[Job]) -> Sequence[_Group]:
        """Return jobs by where they go: those that wait for one place must not stand before the others."""
        groups: dict[str, _Group] = {}
        for job in jobs:
            addressing = self._addressing.get(job.due.channel)
            destination = addressing.destination(job.due.target) if addressing and job.due.target else None
            group = groups.setdefault("" if destination is None else destination.name, _Group(destination))
            group.waiting.append(job)
        for group in groups.values():
            group.waiting.reverse()
        return list(groups.values())

    async def _hold_back(self, group: _Group) -> None:
        """Let nothing wait for a destination that has closed in the meantime, nor for what hangs there."""
        destination = group.destination
        if destination is None or not self._is_closed(destination):
            return
        self._gate.turn_away(destination)
        self._gate.lend(destination)
        while group.waiting and not self._stopping:
            await self._not_now(group.waiting.pop(), destination)

    def _is_closed(self, destination: Destination) -> bool:
        return destination.is_closed(full=self._gate.is_full(destination))

    async def _one(self, group: _Group, runner: Runner, informed: Callable[[], Awaitable[None]]) -> None:
        job, destination = group.waiting.pop(), group.destination
        if reason := self._objection(job):
            await self._skip(job, reason)
            return
        if destination is not None and self._is_closed(destination):
            await self._not_now(job, destination)
            return
        message = self._composed(job)
        if isinstance(message, SkipReason):
            await self._skip(job, message)
            return
        if not await self._gate.enter(job.notification.priority, destination):
            assert destination is not None, "only from a destination somebody is turned away"
            await self._not_now(job, destination)
            return
        try:
            await informed()
            if self._stopping:
                # it has only waited for its place, and need not hold up the end
                group.waiting.append(job)
                return
            started = self._clock.now()
            # while this one waited for its place …
            if job.notification.id in self._cancelled:
                await self._skip(job, SkipReason.CANCELLED)
                return
            if started >= job.notification.expires_at:
                await self._skip(job, SkipReason.EXPIRED)
                return
            outcome: Outcome = _too_late(started)
            if started + LONGEST_SEND <= job.due.lease_until:
                outcome = await self._sent(job, message, runner, started)
            # The place is held until the outcome is taken: while the database stalls, no more is sent than a crash
            # may repeat.
            await self._recorded(_attempted(job, outcome, started, self._clock.now()))
        finally:
            self._gate.leave(destination)

    async def _sent(self, job: Job, message: Message, runner: Runner, started: datetime) -> Outcome:
        runner.since = asyncio.get_running_loop().time()
        try:
            return await self._outcome(self._channels[job.due.channel], message, started)
        except asyncio.CancelledError:
            if runner.is_straggler:
                # its claim counts as dealt with, so nobody else would give it back
                broken_off = Deferred(started, "the worker stopped before the answer came", spends_attempt=False)
                await self._recorded(_attempted(job, broken_off, started, self._clock.now()))
            raise
        finally:
            runner.since = None

    async def _not_now(self, job: Job, destination: Destination) -> None:
        now = self._clock.now()
        later = destination.not_now(job.notification.priority, job.notification.expires_at)
        await self._recorded(_attempted(job, later, now, now))

    async def _skip(self, job: Job, reason: SkipReason) -> None:
        now = self._clock.now()
        skipped = Skipped(job.notification.id, job.due.user_id, job.due.channel, reason)
        await self._recorded(_attempted(job, skipped, now, now))

    def _objection(self, job: Job) -> SkipReason | None:
        if job.notification.id in self._cancelled:
            return SkipReason.CANCELLED
        return objection(job.due, job.notification, job.category, in_audience=job.in_audience, now=self._clock.now())

    def _composed(self, job: Job) -> Message | SkipReason:
        due, notification = job.due, job.notification
        assert due.target is not None, "objection() lets nothing without a target pass"
        assert due.locale is not None, "nor a user without a locale"
        try:
            content = self._renderings.content(notification, due.locale, due.timezone or "UTC")
            payload = self._channels[due.channel].encode(content, notification_id=notification.id, delivery_id=due.id)
        except Invalid as error:
            log.error("render_failed", notification_id=notification.id, locale=due.locale, problem=error.message)
            return SkipReason.RENDER_FAILED
        except Exception:  # one message that a channel cannot encode must not take the batch with it
            log.exception("encode_failed", notification_id=notification.id, channel=due.channel)
            return SkipReason.RENDER_FAILED
        return Message(
            delivery_id=due.id,
            notification_id=notification.id,
            target=due.target,
            payload=payload,
            priority=notification.priority,
            expires_at=notification.expires_at,
            attempt=due.attempts + 1,
        )

    async def _outcome(self, channel: Channel, message: Message, now: datetime) -> Outcome:
        try:
            async with asyncio.timeout(LONGEST_SEND.total_seconds()):
                return await channel.send(message)
        except TimeoutError:
            return Deferred(now + LONGEST_SEND + AFTER_A_BUG * message.attempt, "took too long; given up for this time")
        except Exception as error:  # one poisonous message must not take the batch with it
            log.exception("channel_failed", channel=channel.name, delivery_id=message.delivery_id)
            return Deferred(now + AFTER_A_BUG * message.attempt, f"internal error: {type(error).__name__}")


def _too_late(now: datetime) -> Deferred:
    """Return the outcome of one that waited so long behind slow ones that a send could outlast its lease."""
    return Deferred(now, "waited too long for its turn", spends_attempt=False)


def _attempted(job: Job, outcome: Outcome | Skipped, started: datetime, finished: datetime) -> Attempted:
    return Attempted(
        delivery_id=job.due.id,
        notification_id=job.notification.id,
        user_id=job.due.user_id,
        channel=job.due.channel,
        target_id=job.due.target.id if job.due.target else None,
        lease_token=job.due.lease_token,
        number=job.due.attempts + 1,
        outcome=outcome,
        expires_at=job.notification.expires_at,
        started_at=started,
        finished_at=finished,
    )
