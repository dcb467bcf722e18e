"""The state machine of digests, quiet hours, later steps and "seen", on the same processes and with the same faults."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from sqlalchemy import ColumnElement, select
from tests.adapters.state_machine.fake_channel import ProviderResponse
from tests.adapters.state_machine.faulty_store import CommitFault
from tests.adapters.state_machine.flow_machine import FlowMachine, answers, faults, indexes
from tests.adapters.state_machine.plan_invariants import Trigger, read_plan_rows
from tests.adapters.state_machine.plan_world import (
    ALL_USERS,
    DIGESTS,
    EVENT,
    STEPS,
    THROTTLES,
    ZONES,
    PlanWorld,
    QuietWindow,
    StepKey,
)
from tests.adapters.state_machine.process import SimulatedProcess, TimerTask

from tidings.errors import BackendError, NotFound
from tidings.model import audience
from tidings.model.preference import Preference
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.user_schedule import UserSchedule
from tidings.ports.transaction import retry_on_conflict
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.digest_tables import digest_items
from tidings.stores.schema.step_tables import waiting_steps
from tidings.stores.schema.tables import deliveries, notifications
from tidings.testing.clock import FrozenClock

AUDIENCES: Sequence[tuple[str, ...] | None] = (("ana",), ("ana",), ("ana", "ben"), ("dora", "cem"), None)
#: what marks fulfil
FULFILLED_BY = {False: ("delivered", "seen"), True: ("delivered", "seen", "read")}
#: longer than the clock is ever set back
CLOCK_TOLERANCE = timedelta(seconds=2)


@dataclass(frozen=True)
class Action:
    """Something that a process does, possibly beside other things."""

    name: str
    which: int
    user_id: str
    by: int


users = st.sampled_from(ALL_USERS)
actions = st.builds(
    Action,
    st.sampled_from(
        ("close", "close", "start", "start", "batch", "notify", "notify", "mark", "event", "cancel", "quiet")
    ),
    st.integers(0, 50),
    users,
    indexes,
)
#: what may happen while messages are in flight. Schedules and preferences may be two seconds old then
actions_in_flight = st.builds(
    Action, st.sampled_from(("close", "start", "notify", "mark", "mark", "event")), st.integers(0, 50), users, indexes
)


class PlanMachine(FlowMachine):
    """Applies events to a world, and records what was accepted and what users did."""

    work_timers: ClassVar[Sequence[TimerTask]] = (
        TimerTask.RELAY,
        TimerTask.BATCH_DUE,
        TimerTask.CLOSE_DIGESTS,
        TimerTask.START_STEPS,
    )

    world: PlanWorld

    def __init__(self) -> None:
        #: source → the request
        self.triggers: dict[str, Trigger] = {}
        super().__init__()

    def create_world(self, clock: FrozenClock) -> PlanWorld:
        return PlanWorld(self.backend, clock)

    # accept ---------------------------------------------------------------------------------------------------------

    @initialize()
    def notify_everyone(self) -> None:
        for mode, steps in (("fixed", "none"), ("email", "none"), ("alone", "escalated"), ("alone", "until_paid")):
            request = self._build(None, mode, steps, "NEWS", None, None, 1)
            self.run(self.accept_requests([request], self.world.api, CommitFault.NONE))

    @rule(
        user_ids=st.sampled_from(AUDIENCES),
        mode=st.sampled_from(sorted(DIGESTS)),
        steps=st.sampled_from(sorted(STEPS)),
        template=st.sampled_from(("NEWS", "NEWS", "DUTY")),
        priority=st.sampled_from((None, None, None, Priority.URGENT)),
        ttl=st.sampled_from((None, None, None, 20, 700)),
        count=st.sampled_from((1, 1, 2, 5)),
        by=indexes,
        fault=faults,
    )
    def notify(
        self,
        user_ids: tuple[str, ...] | None,
        mode: str,
        steps: str,
        template: str,
        priority: Priority | None,
        ttl: float | None,
        count: int,
        by: int,
        fault: CommitFault,
    ) -> None:
        """Accept notifications of the same millisecond."""
        expected = 0 if fault is CommitFault.NOT_APPLIED else count
        request = self._build(user_ids, mode, steps, template, priority, ttl, expected)
        self.run(self.accept_requests([request] * count, self.process(by), fault))

    def build_request(self) -> NotifyRequest:
        return self._build(None, "alone", "escalated", "NEWS", None, None, 1)

    def _build(
        self,
        user_ids: tuple[str, ...] | None,
        mode: str,
        steps: str,
        template: str,
        priority: Priority | None,
        ttl: float | None,
        count: int,
    ) -> NotifyRequest:
        if mode == "email":
            # a digest that collects some channels must collect all of the steps
            steps = "none"
        source = f"request:{len(self.triggers)}"
        is_collected = DIGESTS[mode] is not None and priority is not Priority.URGENT
        self.triggers[source] = Trigger(user_ids or ALL_USERS, mode, STEPS[steps], is_collected, count)
        return NotifyRequest(
            template,
            audience.everyone() if user_ids is None else audience.users(*user_ids),
            {"title": source, "mode": mode},
            priority=priority,
            expires_at=None if ttl is None else self.world.clock.now() + timedelta(seconds=ttl),
            source=source,
            steps=STEPS[steps] or None,
            digest=DIGESTS[mode] or False,
            throttle=THROTTLES.get(mode, False),
        )

    # users and the host ---------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 50), user=users, is_read=st.booleans(), by=indexes, fault=faults)
    def mark(self, which: int, user: str, is_read: bool, by: int, fault: CommitFault) -> None:
        """Mark a notification in a feed, perhaps before its item has arrived."""
        self.run(self._mark(which, user, self.process(by), fault, is_read=is_read))

    async def _mark(
        self, which: int, user: str, by: SimulatedProcess, fault: CommitFault = CommitFault.NONE, *, is_read: bool
    ) -> None:
        notification_id = await self._choose_addressed(which, user)
        if notification_id is None:
            return
        self.world.actions.marked.add((notification_id, user))
        step = waiting_steps.c
        steps = await self._list_steps(
            step.notification_id == notification_id, step.user_id == user, step.unless.in_(FULFILLED_BY[is_read])
        )
        mark = by.inbox.mark_item_read if is_read else by.inbox.mark_item_seen
        by.store.next_fault = fault
        try:
            await retry_on_conflict(lambda: mark(user, notification_id))
        except (BackendError, NotFound):
            # not confirmed; or the notification has not reached the user in any way
            return
        self._silence(steps)
        await self._expect_to_leave(notification_id, user)

    @rule(index=indexes, which=st.integers(0, 50), is_read=st.booleans())
    def mark_when_a_step_has_started(self, index: int, which: int, is_read: bool) -> None:
        """Send what is due, start the next steps, and mark notifications between that and the sending."""
        self.run(self._mark_when_started(self.worker(index), which, is_read=is_read))

    async def _mark_when_started(self, worker: SimulatedProcess, which: int, *, is_read: bool) -> None:
        await self._work(worker, None, CommitFault.NONE, timers=True)
        await worker.flush_outcomes()
        self.world.clock.advance(61)
        await worker.ignore_backend_error(partial(worker.run_timer, TimerTask.START_STEPS))
        for user in ALL_USERS:
            await self._mark(which, user, self.world.api, is_read=is_read)
        await self._work(worker, None, CommitFault.NONE, timers=False)
        await worker.flush_outcomes()
        await self._reset_after_step(worker)

    async def _choose_addressed(self, which: int, user: str) -> str | None:
        """Return a notification with a delivery to a user, more often one with an unsent delivery of a later step."""
        delivery, step = deliveries.c, waiting_steps.c
        of_user = select(delivery.notification_id).distinct().where(delivery.user_id == user)
        unsent = of_user.where(
            delivery.state.in_(("pending", "sending")),
            delivery.notification_id == step.notification_id,
            step.user_id == user,
            step.started_at.is_not(None),
        )
        async with self.world.store.read_snapshot() as tx:
            found = sorted(await connection_of(tx).scalars(unsent)) if which % 4 else []
            found = found or sorted(await connection_of(tx).scalars(of_user))
        return found[which % len(found)] if found else None

    async def _list_steps(self, *conditions: ColumnElement[bool]) -> list[StepKey]:
        query = select(waiting_steps).where(*conditions)
        async with self.world.store.read_snapshot() as tx:
            found = (await connection_of(tx).execute(query)).all()
        return [(row.notification_id, row.user_id, channel) for row in found for channel in row.channels]

    async def _list_awaiting(self, user: str) -> list[StepKey]:
        """Return the later steps that wait for the event in notifications that are not planned yet."""
        notification = notifications.c
        query = select(notification.id, notification.source).where(notification.state.in_(("accepted", "fanning_out")))
        async with self.world.store.read_snapshot() as tx:
            found = (await connection_of(tx).execute(query)).all()
        return [
            (row.id, user, channel)
            for row in found
            if row.source in self.triggers and user in self.triggers[row.source].user_ids
            for step in self.triggers[row.source].steps
            if step.event == EVENT
            for channel in step.channels
        ]

    def _silence(self, steps: Sequence[StepKey]) -> None:
        """Record that later steps must not start any more, except those past their last check."""
        begun = self.world.list_in_last_check()
        for step in steps:
            self.world.actions.silenced.setdefault(step, set(begun))

    async def _expect_to_leave(self, notification_id: str, user: str | None = None) -> None:
        """Record which items are still collected although they must not be in a digest any more."""
        item = digest_items.c
        query = select(item.user_id).where(item.notification_id == notification_id, item.state == "collected")
        async with self.world.store.read_snapshot() as tx:
            collected = set(await connection_of(tx).scalars(query))
        left = collected if user is None else collected & {user}
        self.world.actions.must_leave_digest.update((notification_id, one) for one in left)

    @rule(user=users, by=indexes, fault=faults)
    def pay(self, user: str, by: int, fault: CommitFault) -> None:
        """Let the host report the event that some steps wait for; it repeats a call without reply."""
        self.run(self._pay(user, self.process(by), fault))

    async def _pay(self, user: str, by: SimulatedProcess, fault: CommitFault = CommitFault.NONE) -> None:
        async def cancel_steps() -> None:
            async with by.store.transaction() as tx:
                await by.store.steps.cancel_by_event(tx, EVENT, self.world.clock.now(), subject=None, user_id=user)

        self.world.actions.paid.add(user)
        steps = await self._list_steps(waiting_steps.c.event == EVENT, waiting_steps.c.user_id == user)
        steps += await self._list_awaiting(user)
        by.store.next_fault = fault
        await self._until_confirmed(cancel_steps)
        self._silence(steps)

    async def _until_confirmed(self, call: Callable[[], Awaitable[None]]) -> None:
        while True:
            with suppress(BackendError):
                await retry_on_conflict(call)
                return

    @rule(
        user=users,
        starts_in=st.sampled_from((-30, 0, 1, 8)),
        minutes=st.sampled_from((None, 2, 45, 1400)),
        zone=st.sampled_from(ZONES),
        channels=st.sampled_from(((), ("email",))),
        by=indexes,
        fault=faults,
    )
    def set_quiet_hours(
        self,
        user: str,
        starts_in: int,
        minutes: int | None,
        zone: tuple[str, int],
        channels: tuple[str, ...],
        by: int,
        fault: CommitFault,
    ) -> None:
        """Replace the quiet hours of a user; minutes: None = by none."""
        self.run(self._set_quiet_hours(user, starts_in, minutes, zone, channels, self.process(by), fault))

    async def _set_quiet_hours(
        self,
        user: str,
        starts_in: int,
        minutes: int | None,
        zone: tuple[str, int],
        channels: tuple[str, ...],
        by: SimulatedProcess,
        fault: CommitFault = CommitFault.NONE,
    ) -> None:
        name, offset = zone
        local = self.world.clock.now() + timedelta(minutes=offset + starts_in)
        window = None
        if minutes is not None:
            start = local.hour * 60 + local.minute
            window = QuietWindow(name, timedelta(minutes=offset), start, minutes, channels)

        async def store() -> None:
            async with by.store.transaction() as tx:
                schedule = UserSchedule(quiet_hours=()) if window is None else window.to_schedule()
                await by.store.user_schedules.set(tx, user, schedule, self.world.clock.now())

        self.world.actions.changing.add(user)
        by.store.next_fault = fault
        await self._until_confirmed(store)
        self.world.actions.quiet[user] = window
        self.world.actions.changing.discard(user)

    @rule(
        user=users, channel=st.sampled_from(("email", "sms", "inapp")), enabled=st.booleans(), by=indexes, fault=faults
    )
    def choose(self, user: str, channel: str, enabled: bool, by: int, fault: CommitFault) -> None:
        """Turn news on or off on a channel."""
        entry, process = ("NEWS", channel), self.process(by)

        async def store() -> None:
            async with process.store.transaction() as tx:
                preference = Preference(*entry, enabled=enabled)
                await process.store.users.set_preferences(tx, user, [preference])

        self.world.actions.opted_out.discard((user, *entry))
        process.store.next_fault = fault
        self.run(self._until_confirmed(store))
        if not enabled:
            self.world.actions.opted_out.add((user, *entry))
            self.world.actions.ever_opted_out.add(user)

    @rule()
    def renew_addresses(self) -> None:
        self.run(self.world.add_users())

    async def _cancel(self, notification_id: str, by: SimulatedProcess, fault: CommitFault = CommitFault.NONE) -> None:
        await super()._cancel(notification_id, by, fault)
        if notification_id in self.world.provider_log.received_at_cancellation:
            await self._expect_to_leave(notification_id)

    # at the same time -----------------------------------------------------------------------------------------------

    @rule(chosen=st.lists(actions, min_size=2, max_size=4))
    def act_together(self, chosen: list[Action]) -> None:
        """Let several processes act at once."""

        # what is planned in the instant in which quiet hours change may be held until the end that was valid before
        plans = any(action.name in ("close", "start", "notify") for action in chosen)

        async def run_all() -> None:
            await asyncio.gather(*(self._act(action) for action in chosen if action.name != "quiet" or not plans))

        self.run(run_all())

    @rule(index=indexes, action=actions_in_flight, at=st.integers(0, 2), responses=answers)
    def act_during_sends(self, index: int, action: Action, at: int, responses: list[ProviderResponse]) -> None:
        """Let something happen while a worker has messages in flight."""
        worker = self.worker(index)
        channel = worker.channel
        channel.responses, channel.messages_until_event = list(responses), at
        channel.on_message = partial(self._act, action)
        self.run(self._work(worker, None, CommitFault.NONE, timers=True))
        self.run(worker.flush_outcomes())
        self.run(self._reset_after_step(worker))

    async def _act(self, action: Action) -> None:
        by = self.process(action.by)
        match action.name:
            case "close":
                await by.ignore_backend_error(partial(by.run_timer, TimerTask.CLOSE_DIGESTS))
            case "start":
                await by.ignore_backend_error(partial(by.run_timer, TimerTask.START_STEPS))
            case "batch":
                await by.ignore_backend_error(partial(by.run_timer, TimerTask.BATCH_DUE))
            case "notify":
                mode = sorted(DIGESTS)[action.which % len(DIGESTS)]
                steps = sorted(STEPS)[action.which % len(STEPS)]
                request = self._build((action.user_id,), mode, steps, "NEWS", None, None, 1)
                await retry_on_conflict(lambda: self._accept_one(request, by))
            case "mark":
                await self._mark(action.which, action.user_id, by, is_read=action.which % 2 == 0)
            case "event":
                await self._pay(action.user_id, by)
            case "quiet":
                minutes = None if action.which % 2 else 45
                await self._set_quiet_hours(action.user_id, -1, minutes, ZONES[0], (), by)
            case "cancel":
                await self._cancel(self.notification_ids[action.which % len(self.notification_ids)], by)

    async def _accept_one(self, request: NotifyRequest, by: SimulatedProcess) -> None:
        async with by.store.transaction() as tx:
            [result] = await by.pipeline.accept_many(tx, [request])
        assert not isinstance(result, Exception), result
        self.notification_ids.append(result.id)

    # invariants -----------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_sent_that_must_not_be(self) -> None:
        for send in self.world.actions.sends:
            assert not send.is_quiet, f"sent within quiet hours: {send}"
            assert not send.is_expired, f"sent after its expiry: {send}"
            assert not send.is_silenced, f"a step started after the user or the host had made it unnecessary: {send}"

    @invariant()
    def nothing_is_held_without_quiet_hours(self) -> None:
        assert self.run(self._list_held_too_long()) == []

    async def _list_held_too_long(self) -> list[str]:
        delivery, now = deliveries.c, self.world.clock.now()
        query = select(delivery.user_id, delivery.channel, delivery.due_at).where(
            delivery.state == "pending", delivery.held_by == "quiet_hours", delivery.due_at > now + CLOCK_TOLERANCE
        )
        async with self.world.store.read_snapshot() as tx:
            held = (await connection_of(tx).execute(query)).all()
        is_quiet = self.world.actions.is_quiet
        return [
            f"{user} {channel} until {due_at} at {now}"
            for user, channel, due_at in held
            if not (is_quiet(user, channel, now) or is_quiet(user, channel, now + CLOCK_TOLERANCE))
        ]

    async def check_when_idle(self) -> None:
        await self.world.run_until_idle()
        self.nothing_is_sent_that_must_not_be()
        self.nothing_is_sent_after_a_confirmed_cancellation()
        async with self.world.store.read_snapshot() as tx:
            rows = await read_plan_rows(tx)
        rows.check(self.triggers, self.world, self.replay_counts)
