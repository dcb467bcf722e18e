"""Sends claimed deliveries with bounded concurrency and passes on each outcome as soon as it is known."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

import structlog
from cachetools import LRUCache
from msgspec import structs

from tidings.errors import BackendError, ValidationFailed
from tidings.flow.deliver.concurrency_limiter import SendLimiter
from tidings.flow.deliver.freshness import JobRefresher, Reload
from tidings.flow.deliver.preflight import DeliveryJob, preflight
from tidings.flow.deliver.render_cache import RenderCache
from tidings.flow.deliver.slow_sends import SendTask, SlowSendWaiter
from tidings.flow.plan.candidate import NO_RULES
from tidings.flow.plan.digest_content import select_digest_content
from tidings.model.consent import find_allowed_parts
from tidings.model.contact_point import NO_CONTACT_POINT, ContactPoint
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import AttemptResult, HoldRecord, OutboundMessage, SkipReason, SkipRecord
from tidings.model.notification import Notification, StopReason
from tidings.model.outcome import Outcome, RetryLater
from tidings.model.user_schedule import NO_SCHEDULE_DEFAULTS, ScheduleDefaults
from tidings.ports.channel import Channel, ComposeContext, Destination, HasDestinations, HasLocalSends, HasSenders
from tidings.ports.clock import Clock
from tidings.ports.pack import PackRule

log = structlog.get_logger(__name__)

#: back-off after a timeout or an internal error of a channel, multiplied by the attempt number
INTERNAL_ERROR_BACKOFF = timedelta(seconds=2)
#: time limit of one send; a send does not start if its lease expires earlier
SEND_TIMEOUT = timedelta(seconds=20)
#: remembered notifications that were cancelled or superseded; claims read older ones from the database
MAX_STOPPED = 10_000
_NO_DETAIL: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _DestinationGroup:
    """Jobs of one `send` call for the same destination; None = the destination is unknown."""

    destination: Destination | None
    limiter: SendLimiter
    #: jobs that are not started, the next one last
    pending: list[DeliveryJob] = field(default_factory=list)


class DeliverySender:
    """Sends jobs over their channels. One per worker."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        render_cache: RenderCache,
        limiter: SendLimiter,
        clock: Clock,
        on_outcome: Callable[[AttemptResult], Awaitable[None]],
        on_idle: Callable[[], None] = lambda: None,
        *,
        schedule_defaults: ScheduleDefaults = NO_SCHEDULE_DEFAULTS,
        pack_rules: Mapping[str, PackRule] = NO_RULES,
        update_step: Callable[[DeliveryJob], Awaitable[DeliveryJob]] | None = None,
    ) -> None:
        """Create a sender.

        on_outcome: awaited with each outcome; while it blocks, the send keeps its slot. on_idle: called when a batch
        has ended and nothing else is in flight. schedule_defaults: of users without a schedule. pack_rules: name →
        rule, of all packs. update_step: reads again whether a later step was cancelled, see `StepCheck`; raises
        BackendError.
        """
        self._channels = channels
        self._render_cache = render_cache
        self._limiter = limiter
        #: by name of the channel; the others share the first one
        self._own_limiters = {
            name: SendLimiter(channel.max_local_sends)
            for name, channel in channels.items()
            if isinstance(channel, HasLocalSends)
        }
        self._clock = clock
        self._on_outcome = on_outcome
        self._on_idle = on_idle
        self._schedule_defaults = schedule_defaults
        self._update_step = update_step
        self._pack_rules = pack_rules
        self._channels_with_destinations = {
            name: channel for name, channel in channels.items() if isinstance(channel, HasDestinations)
        }
        self._senders = {name: channel.senders for name, channel in channels.items() if isinstance(channel, HasSenders)}
        self._slow_sends = SlowSendWaiter()
        self._refresher = JobRefresher(clock)
        self._stopped: LRUCache[str, StopReason] = LRUCache(MAX_STOPPED)
        self._held_counts: Counter[str] = Counter()
        self._is_stopping = False

    @property
    def held_notification_ids(self) -> Collection[str]:
        """Ids of the notifications with deliveries in flight or waiting for a slot."""
        return self._held_counts.keys()

    @property
    def in_flight(self) -> int:
        """The sends that have started and not ended."""
        return sum(limiter.in_flight for limiter in self._limiters)

    @property
    def _limiters(self) -> Sequence[SendLimiter]:
        return (self._limiter, *self._own_limiters.values())

    def mark_stopped(self, notification_id: str, reason: StopReason) -> None:
        """Start no more sends of this notification, including deliveries that are already claimed."""
        self._stopped[notification_id] = reason

    def stop(self) -> None:
        """Start no more sends. Sends in flight continue."""
        self._is_stopping = True

    @contextmanager
    def urgent_work(self) -> Iterator[None]:
        """Return a context in which sends that are not urgent start one by one (`StartThrottle.urgent_work`)."""
        with ExitStack() as stack:
            for limiter in self._limiters:
                stack.enter_context(limiter.urgent_work())
            yield

    def flush_now(self) -> None:
        """Request that buffered outcomes are written at once."""
        self._on_idle()

    async def send(self, jobs: Collection[DeliveryJob], *, reload: Reload) -> Sequence[DeliveryJob]:
        """Send jobs, as many at once as the limiter allows. Returns the jobs that were not started because of `stop`.

        reload: reads the data of waiting jobs again once it is too old.
        """
        groups = self._group_by_destination(jobs)
        held = Counter(job.notification.id for group in groups for job in group.pending)
        self._held_counts += held
        self._refresher.add(jobs)

        async def process_group(send_task: SendTask, group: _DestinationGroup) -> None:
            # `is_stopped` is checked because a channel's library may return a result in spite of the cancellation
            while group.pending and not self._is_stopping and not send_task.is_stopped:
                await self._process_next(group, send_task, reload)

        async def check_all_started() -> bool:
            for group in groups:
                await self._defer_if_closed(group)
            return not any(group.pending for group in groups)

        send_tasks = [
            (send_task, process_group(send_task, group))
            for group in groups
            for send_task in (SendTask() for _ in range(min(len(group.pending), group.limiter.slots)))
        ]
        try:
            await self._slow_sends.run_until_done(send_tasks, check_all_started)
        finally:
            self._held_counts -= held
            for job in jobs:
                self._refresher.discard(job)
        if not self.in_flight:
            self._on_idle()
        return [job for group in groups for job in group.pending]

    def _group_by_destination(self, jobs: Iterable[DeliveryJob]) -> Sequence[_DestinationGroup]:
        """Group jobs by destination, so that jobs that wait for one destination do not block the others."""
        groups: dict[tuple[str, str], _DestinationGroup] = {}
        for job in jobs:
            channel = self._channels_with_destinations.get(job.delivery.channel)
            destination = channel.destination(job.delivery.target) if channel and job.delivery.target else None
            own_limiter = self._own_limiters.get(job.delivery.channel)
            key = (job.delivery.channel if own_limiter else "", "" if destination is None else destination.name)
            if (group := groups.get(key)) is None:
                group = groups[key] = _DestinationGroup(destination, own_limiter or self._limiter)
            group.pending.append(job)
        for group in groups.values():
            group.pending.reverse()
        return list(groups.values())

    async def _defer_if_closed(self, group: _DestinationGroup) -> None:
        """Defer the pending jobs of a destination that has closed, and lend the slots of its hanging sends."""
        destination = group.destination
        if destination is None or not self._is_closed(group):
            return
        group.limiter.reject_waiters(destination)
        group.limiter.lend_hung_slots(destination)
        while group.pending and not self._is_stopping:
            await self._defer(group.pending.pop(), destination)

    def _is_closed(self, group: _DestinationGroup) -> bool:
        destination = group.destination
        return destination is not None and destination.is_closed(is_full=group.limiter.is_full(destination))

    async def _process_next(self, group: _DestinationGroup, send_task: SendTask, reload: Reload) -> None:
        job, destination = group.pending.pop(), group.destination
        if stopped := self._preflight(job):
            await self._record_unsent(job, stopped)
            return
        if destination is not None and self._is_closed(group):
            await self._defer(job, destination)
            return
        if not await group.limiter.acquire(job.notification.priority, destination):
            assert destination is not None, "waiters are only rejected per destination"
            await self._defer(job, destination)
            return
        try:
            job = await self._refresher.ensure_fresh(job, reload)
            self._refresher.discard(job)
            if self._is_stopping:
                # not started yet, so it is returned as unsent
                group.pending.append(job)
                return
            # checked again, as the job may have waited for its slot
            if stopped := self._preflight(job):
                await self._record_unsent(job, stopped)
                return
            message = self._compose_message(job)
            if isinstance(message, SkipRecord):
                await self._record_unsent(job, message)
                return
            if (unsent := await self._check_step(job)) is not None:
                await self._on_outcome(unsent)
                return
            started = self._clock.now()
            outcome: Outcome = _lease_exhausted(started)
            if started + SEND_TIMEOUT <= job.delivery.lease_until:
                outcome = await self._send_tracked(job, message, send_task, started)
            # The slot is held until the outcome is buffered. During a database outage this bounds the number of
            # messages that a crash may send twice.
            await self._on_outcome(_build_result(job, outcome, started, self._clock.now()))
        finally:
            group.limiter.release(destination)

    async def _check_step(self, job: DeliveryJob) -> AttemptResult | None:
        """Return the outcome of a job whose step was cancelled, or cannot be checked; None if it may be sent."""
        if self._update_step is None or not job.notification.plan.steps:
            return None
        outcome: Outcome | SkipRecord | HoldRecord | None
        try:
            outcome = self._preflight(await self._update_step(job))
        except BackendError as error:
            until = self._clock.now() + timedelta(seconds=error.retry_after)
            outcome = RetryLater(until, "the step could not be checked: " + error.message, counts_as_attempt=False)
        now = self._clock.now()
        return None if outcome is None else _build_result(job, outcome, now, now)

    async def _send_tracked(
        self, job: DeliveryJob, message: OutboundMessage, send_task: SendTask, started: datetime
    ) -> Outcome:
        send_task.started_at = asyncio.get_running_loop().time()
        try:
            return await self._send_over_channel(self._channels[job.delivery.channel], message, started)
        except asyncio.CancelledError:
            if send_task.is_detached:
                # its claim has ended, so that its lease would not be released
                aborted = RetryLater(
                    started, "the worker stopped before the provider answered", counts_as_attempt=False
                )
                await self._on_outcome(_build_result(job, aborted, started, self._clock.now()))
            raise
        finally:
            send_task.started_at = None

    async def _defer(self, job: DeliveryJob, destination: Destination) -> None:
        now = self._clock.now()
        retry = destination.defer(job.notification.priority, job.notification.expires_at)
        await self._on_outcome(_build_result(job, retry, now, now))

    async def _record_unsent(self, job: DeliveryJob, record: SkipRecord | HoldRecord) -> None:
        now = self._clock.now()
        await self._on_outcome(_build_result(job, record, now, now))

    def _preflight(self, job: DeliveryJob) -> SkipRecord | HoldRecord | None:
        delivery = job.delivery
        # usually empty, and a look-up in an LRU cache costs as much as the rest of this check
        if self._stopped and (stopped := self._stopped.get(job.notification.id)):
            is_cancelled = stopped.superseded_by is None
            delivery = structs.replace(
                delivery, is_cancelled=delivery.is_cancelled or is_cancelled, superseded_by=stopped.superseded_by
            )
        decision = preflight(
            delivery,
            job.notification,
            job.category,
            is_in_audience=job.is_in_audience,
            now=self._clock.now(),
            channels=self._channels,
            traits=job.traits,
            senders=self._senders.get(delivery.channel, ()),
            schedule_defaults=self._schedule_defaults,
            preference_defaults=job.preference_defaults,
            pack_rules=self._pack_rules,
        )
        match decision:
            case None:
                return None
            case Skip(reason, detail):
                return _skip(job, reason, detail)
            case Defer(until, rule, detail):
                return HoldRecord(until, rule, detail)

    def _compose_message(self, job: DeliveryJob) -> OutboundMessage | SkipRecord:
        delivery, notification = job.delivery, job.notification
        # preflight() rejects a delivery without a target, except on a channel without contact points
        target = delivery.target or ContactPoint(NO_CONTACT_POINT, delivery.user_id, delivery.channel, "")
        assert delivery.locale is not None, "and one without a user"
        try:
            timezone = delivery.timezone or "UTC"
            if notification.parts:
                notification = _select_content(job)
            content = self._render_cache.get_or_render(notification, delivery.channel, delivery.locale, timezone)
            context = ComposeContext(
                notification.id,
                delivery.id,
                delivery.user_id,
                job.category,
                notification.collapse_key,
                notification.expires_at,
                timezone,
                # without a subject, no other notification has its collapse key
                1 if notification.subject_version is None else notification.subject_version,
            )
            payload = self._channels[delivery.channel].compose(content, context)
        except ValidationFailed as error:
            log.error("render_failed", notification_id=notification.id, locale=delivery.locale, error=error.message)
            return _render_failure(job, error.message)
        except Exception as error:  # a message that a channel cannot compose must not fail the whole batch
            log.exception("compose_failed", notification_id=notification.id, channel=delivery.channel)
            return _render_failure(job, f"internal error: {type(error).__name__}")
        return OutboundMessage(
            delivery_id=delivery.id,
            notification_id=notification.id,
            target=target,
            payload=payload,
            priority=notification.priority,
            expires_at=notification.expires_at,
            attempt=delivery.attempts + 1,
            collapse_key=notification.collapse_key,
        )

    async def _send_over_channel(self, channel: Channel, message: OutboundMessage, now: datetime) -> Outcome:
        try:
            async with asyncio.timeout(SEND_TIMEOUT.total_seconds()):
                return await channel.send(message)
        except TimeoutError:
            return RetryLater(
                now + SEND_TIMEOUT + INTERNAL_ERROR_BACKOFF * message.attempt,
                f"the send timed out after {SEND_TIMEOUT.total_seconds():.0f} s",
            )
        except Exception as error:  # one message must not fail the whole batch
            log.exception("channel_failed", channel=channel.name, delivery_id=message.delivery_id)
            return RetryLater(now + INTERNAL_ERROR_BACKOFF * message.attempt, f"internal error: {type(error).__name__}")


def _select_content(job: DeliveryJob) -> Notification:
    """Return the notification of a digest with what the user receives on the channel now."""
    channel, preferences = job.delivery.channel, job.delivery.preferences
    parts = find_allowed_parts(job.notification, job.category, channel, preferences, defaults=job.preference_defaults)
    return select_digest_content(job.notification, parts)


def _skip(job: DeliveryJob, reason: SkipReason, detail: Mapping[str, object] = _NO_DETAIL) -> SkipRecord:
    return SkipRecord(job.notification.id, job.delivery.user_id, job.delivery.channel, reason, detail)


def _render_failure(job: DeliveryJob, error: str) -> SkipRecord:
    return _skip(job, SkipReason.RENDER_FAILED, {"template": job.notification.template_code, "error": error})


def _lease_exhausted(now: datetime) -> RetryLater:
    """Return the outcome of a job that waited so long for a slot that its send could outlast its lease."""
    return RetryLater(now, "waited too long for a free send slot", counts_as_attempt=False)


def _build_result(
    job: DeliveryJob, outcome: Outcome | SkipRecord | HoldRecord, started: datetime, finished: datetime
) -> AttemptResult:
    return AttemptResult(
        delivery_id=job.delivery.id,
        notification_id=job.notification.id,
        user_id=job.delivery.user_id,
        channel=job.delivery.channel,
        target_id=job.delivery.target.id if job.delivery.target else None,
        lease_token=job.delivery.lease_token,
        number=job.delivery.attempts + 1,
        outcome=outcome,
        expires_at=job.notification.expires_at,
        started_at=started,
        finished_at=finished,
        target_version=job.delivery.target.version if job.delivery.target else None,
        has_steps=bool(job.notification.plan.steps),
    )
