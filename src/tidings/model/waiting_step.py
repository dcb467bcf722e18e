"""The later steps of a notification for one user: what starts them and what cancels them. Pure.

The first step is planned with the notification. Each later one is a `WaitingStep` from then on. Its clock starts when
the step before was handed over. What the user or the host does cancels the steps that it makes unnecessary, whether
they wait or are being sent.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
from msgspec import structs

from tidings.model.delivery import FINAL_STATES, DeliveryState
from tidings.model.notification import Notification
from tidings.model.plan_options import DomainEvent, Step

#: states of a delivery that its provider took, or may have taken
HANDED_OVER_STATES = frozenset({DeliveryState.DELIVERED, DeliveryState.UNCERTAIN})


class StepCause(StrEnum):
    """Why the clock of a step started."""

    #: the step before was handed over
    HANDED_OVER = "handed_over"
    #: the step before reached nobody, so this one does not wait
    NOT_HANDED_OVER = "not_handed_over"
    #: the step before was cancelled, and this one keeps its time
    CANCELLED = "cancelled"


class StepEnd(StrEnum):
    """What cancelled a step."""

    DELIVERED = "delivered"
    SEEN = "seen"
    READ = "read"
    CLICKED = "clicked"
    #: a domain event of the host
    EVENT = "event"
    NOTIFICATION_CANCELLED = "notification_cancelled"
    SUPERSEDED = "superseded"
    USER_ERASED = "user_erased"
    LEFT_AUDIENCE = "left_audience"


class StepResult(StrEnum):
    """What became of a step that was due."""

    STARTED = "started"
    #: it reached nobody
    PASSED = "passed"
    CANCELLED = "cancelled"


#: what the user did → the conditions that it fulfils: who reads a message has seen it, and it was delivered
FULFILLED: Mapping[StepEnd, frozenset[str]] = {
    StepEnd.DELIVERED: frozenset({"delivered"}),
    StepEnd.SEEN: frozenset({"delivered", "seen"}),
    StepEnd.READ: frozenset({"delivered", "seen", "read"}),
    StepEnd.CLICKED: frozenset({"delivered", "seen", "read", "clicked"}),
}


class WaitingStep(msgspec.Struct, frozen=True):
    """A later step of a notification for one user. Kept after it started or was cancelled."""

    notification_id: str
    user_id: str
    #: position in the notification's steps; the first step, 0, never waits
    step: int
    channels: tuple[str, ...]
    #: seconds after the step before was handed over
    after_seconds: int
    #: what cancels it: `delivered`, `seen`, `read`, `clicked` or `event`; None = nothing
    unless: str | None
    #: type of the domain event, and what it must be about, see `build_event_key`
    event: str | None
    event_key: str | None
    created_at: datetime
    #: None = its clock has not started, or it does not wait any more
    due_at: datetime | None = None
    cause: StepCause | None = None
    started_at: datetime | None = None
    #: when it was cancelled; nothing of it is sent after this
    ended_at: datetime | None = None
    ended_by: StepEnd | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it can still start."""
        return self.started_at is None and self.ended_at is None


def select_channels(step: Step, requested: Collection[str]) -> tuple[str, ...]:
    """Return the channels of a step that the notification may use. requested: empty = all."""
    return tuple(channel for channel in step.channels if not requested or channel in requested)


def find_step(steps: Sequence[Step], channel: str) -> int | None:
    """Return the position of the step with a channel, None without one. A channel is in one step only."""
    return next((position for position, step in enumerate(steps) if channel in step.channels), None)


def build_event_key(subject: str | None, user_id: str) -> str:
    """Return what a domain event must be about: the subject of the notification, or its user if it has none."""
    return f"user {user_id}" if subject is None else f"subject {subject}"


def build_waiting_steps(notification: Notification, user_id: str, *, after: int, now: datetime) -> list[WaitingStep]:
    """Return the steps of a notification that wait for the user. after: position of the step that was planned."""
    waiting = []
    for position, step in enumerate(notification.plan.steps[after + 1 :], after + 1):
        if not (channels := select_channels(step, notification.channels)):
            continue
        waiting.append(
            WaitingStep(
                notification.id,
                user_id,
                position,
                channels,
                step.after_seconds,
                "event" if isinstance(step.unless, DomainEvent) else step.unless,
                step.event,
                None if step.event is None else build_event_key(notification.subject, user_id),
                now,
            )
        )
    return waiting


def plan_waiting_steps(
    notification: Notification,
    user_id: str,
    happened: Mapping[str, datetime],
    now: datetime,
    *,
    last: int,
    is_reached: bool,
) -> list[WaitingStep]:
    """Return the steps that wait for a user when the first ones are planned, those cancelled that events end.

    happened: type of a domain event → when. last: position of the last step that is not among them. is_reached: whether
    it reaches the user. If not, the next one does not wait for it.
    """
    waiting = build_waiting_steps(notification, user_id, after=last, now=now)
    if waiting and not is_reached:
        waiting[0] = structs.replace(waiting[0], due_at=now, cause=StepCause.NOT_HANDED_OVER)
    return apply_events(waiting, happened)


# What happens to the steps of one notification for one user. `steps`: all of them, in order. The functions return the
# steps that change, with their new values.


def start_clock(
    steps: Sequence[WaitingStep], states: Mapping[str, Collection[DeliveryState]], now: datetime
) -> list[WaitingStep]:
    """Start the clock of the next step once the one before was handed over, or ended without.

    states: channel → the states of the deliveries.
    """
    following = next((step for step in steps if step.is_waiting), None)
    if following is None or following.due_at is not None:
        return []
    started = [step for step in steps if step.started_at is not None]
    later_channels = {channel for step in steps for channel in step.channels}
    current = {
        state
        for channel, of_channel in states.items()
        if (channel in started[-1].channels if started else channel not in later_channels)
        for state in of_channel
    }
    if not HANDED_OVER_STATES.isdisjoint(current):
        return start_next(steps, now)
    if current <= FINAL_STATES:
        return [structs.replace(following, due_at=now, cause=StepCause.NOT_HANDED_OVER)]
    return []


def start_next(steps: Sequence[WaitingStep], now: datetime) -> list[WaitingStep]:
    """Start the clock of the next step, because the one before was handed over."""
    following = next((step for step in steps if step.is_waiting), None)
    if following is None or following.due_at is not None:
        return []
    last = max((step.step for step in steps if step.started_at is not None), default=0)
    return [_schedule(steps, following, last, now, StepCause.HANDED_OVER)]


def start_step(
    steps: Sequence[WaitingStep], step: WaitingStep, now: datetime, *, is_planned: bool
) -> list[WaitingStep]:
    """Start a step that is due. If nothing is planned in it, the next one is due at once."""
    changed = [structs.replace(step, due_at=None, started_at=now)]
    if not is_planned:
        following = next((one for one in steps if one.is_waiting and one.step > step.step), None)
        if following is not None:
            changed.append(structs.replace(following, due_at=now, cause=StepCause.NOT_HANDED_OVER))
    return changed


def cancel_steps(
    steps: Sequence[WaitingStep],
    end: StepEnd,
    now: datetime,
    *,
    event: str | None = None,
    after: int = -1,
) -> list[WaitingStep]:
    """Cancel the steps whose condition is fulfilled, those that were started as well.

    The step after them keeps its time, as if they had been sent. event: type of the domain event. after: only steps
    after this one.
    """
    fulfilled = FULFILLED.get(end, frozenset())
    cancelled = {
        step.step: structs.replace(step, due_at=None, ended_at=now, ended_by=end)
        for step in steps
        if step.ended_at is None
        and step.step > after
        and (step.event == event if step.unless == "event" else step.unless in fulfilled)
    }
    if not cancelled:
        return []
    changed = list(cancelled.values())
    current = [cancelled.get(step.step, step) for step in steps]
    following = next((step for step in current if step.is_waiting), None)
    if following is not None and following.due_at is None:
        changed += _keep_time(steps, current, following)
    return changed


def apply_fulfilled(
    steps: Sequence[WaitingStep], happened: Iterable[tuple[StepEnd, str | None]], now: datetime
) -> list[WaitingStep]:
    """Cancel the steps that what happened makes unnecessary.

    happened: what, and the channel on which a message arrived, which makes only the steps after its own unnecessary.
    """
    changed: dict[int, WaitingStep] = {}
    for end, channel in happened:
        after = -1 if channel is None else next((step.step for step in steps if channel in step.channels), 0)
        current = [changed.get(step.step, step) for step in steps]
        changed |= {step.step: step for step in cancel_steps(current, end, now, after=after)}
    return list(changed.values())


def apply_events(steps: Sequence[WaitingStep], happened: Mapping[str, datetime]) -> list[WaitingStep]:
    """Return all steps, those cancelled that domain events make unnecessary. happened: type of the event → when."""
    current = list(steps)
    for event, at in happened.items():
        changed = {step.step: step for step in cancel_steps(current, StepEnd.EVENT, at, event=event)}
        current = [changed.get(step.step, step) for step in current]
    return current


def end_steps(steps: Sequence[WaitingStep], end: StepEnd, now: datetime) -> list[WaitingStep]:
    """Cancel all steps that wait, because their notification or their user is gone."""
    return [structs.replace(step, due_at=None, ended_at=now, ended_by=end) for step in steps if step.is_waiting]


def _keep_time(
    before: Sequence[WaitingStep], current: Sequence[WaitingStep], following: WaitingStep
) -> list[WaitingStep]:
    """Return the next step with the time that it has without the cancellation, if that is known."""
    for step, after in zip(reversed(before), reversed(current), strict=True):
        if step.step >= following.step:
            continue
        if step.due_at is not None:
            return [_schedule(current, following, step.step, step.due_at, StepCause.CANCELLED)]
        if step.started_at is not None:
            # one that is not cancelled starts the clock when it is handed over
            is_cancelled = after.ended_at is not None
            start = step.started_at
            return [_schedule(current, following, step.step, start, StepCause.CANCELLED)] if is_cancelled else []
    return []


def _schedule(
    steps: Sequence[WaitingStep], step: WaitingStep, after: int, start: datetime, cause: StepCause
) -> WaitingStep:
    """Return a step whose clock started. It also waits for the cancelled steps between `after` and it."""
    seconds = sum(one.after_seconds for one in steps if after < one.step <= step.step)
    return structs.replace(step, due_at=start + timedelta(seconds=seconds), cause=cause)
