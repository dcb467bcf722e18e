"""The rules of later steps against a model that computes the same from a timetable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from tidings.model.delivery import DeliveryState
from tidings.model.plan_options import DomainEvent, PlanOptions, Step
from tidings.model.waiting_step import (
    FULFILLED,
    StepEnd,
    WaitingStep,
    build_event_key,
    cancel_steps,
    end_steps,
    plan_waiting_steps,
    start_clock,
    start_step,
)
from tidings.testing.clock import START
from tidings.testing.contracts.samples import make_notification

#: what the user or the host does → the conditions that it fulfils
SUCCESSES: Mapping[StepEnd, frozenset[str]] = {**FULFILLED, StepEnd.EVENT: frozenset({"event"})}
FAILED, HANDED_OVER = DeliveryState.REFUSED, DeliveryState.DELIVERED


@dataclass(frozen=True)
class Scenario:
    """Later steps, which steps reach nobody, and when something happens. Times are seconds."""

    steps: tuple[tuple[int, str | None], ...]
    failing: frozenset[int]
    successes: tuple[tuple[int, StepEnd], ...]

    def has_succeeded(self, unless: str | None, by: int) -> bool:
        return any(at <= by and unless in SUCCESSES[end] for at, end in self.successes)


scenarios = st.builds(
    Scenario,
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from((None, "delivered", "seen", "read", "clicked", "event"))),
        min_size=1,
        max_size=5,
    ).map(tuple),
    st.frozensets(st.integers(0, 5), max_size=3),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(sorted(SUCCESSES))), max_size=3).map(
        lambda successes: tuple(sorted(successes))
    ),
)


def compute_starts(scenario: Scenario) -> dict[int, int]:
    """Return step → when it starts, of those that start. Each step is handed over, or fails, as it starts."""
    starts: dict[int, int] = {}
    time, is_failed = 0, 0 in scenario.failing
    for position, (after, unless) in enumerate(scenario.steps, 1):
        time += 0 if is_failed else after
        if not scenario.has_succeeded(unless, time):
            starts[position] = time
            is_failed = position in scenario.failing
    return starts


def simulate(scenario: Scenario) -> dict[int, int]:
    """Return the same, by the rules under test."""
    steps = [make_step(position, after, unless) for position, (after, unless) in enumerate(scenario.steps, 1)]
    states = {"c0": {FAILED if 0 in scenario.failing else HANDED_OVER}}
    successes = list(scenario.successes)
    while successes and successes[0][0] <= 0:
        steps = cancel(steps, *successes.pop(0))
    steps = merge(steps, start_clock(steps, states, START))
    while True:
        due = [step for step in steps if step.due_at is not None]
        assert len(due) <= 1
        at = None if not due or due[0].due_at is None else int((due[0].due_at - START).total_seconds())
        if successes and (at is None or successes[0][0] <= at):
            steps = cancel(steps, *successes.pop(0))
        elif at is not None:
            now = START + timedelta(seconds=at)
            steps = merge(steps, start_step(steps, due[0], now, is_planned=True))
            states[due[0].channels[0]] = {FAILED if due[0].step in scenario.failing else HANDED_OVER}
            steps = merge(steps, start_clock(steps, states, now))
        else:
            return {
                step.step: int((step.started_at - START).total_seconds())
                for step in steps
                if step.started_at is not None
            }


def make_step(position: int, after: int = 60, unless: str | None = "seen") -> WaitingStep:
    event = "invoice.paid" if unless == "event" else None
    key = None if event is None else build_event_key(None, "ana")
    return WaitingStep("n", "ana", position, (f"c{position}",), after, unless, event, key, START)


def merge(steps: Sequence[WaitingStep], changed: Sequence[WaitingStep]) -> list[WaitingStep]:
    by_position = {step.step: step for step in changed}
    assert len(by_position) == len(changed), "each step changes once"
    return [by_position.get(step.step, step) for step in steps]


def cancel(steps: Sequence[WaitingStep], at: int, end: StepEnd) -> list[WaitingStep]:
    event = "invoice.paid" if end is StepEnd.EVENT else None
    return merge(steps, cancel_steps(steps, end, START + timedelta(seconds=at), event=event))


@given(scenarios)
@example(Scenario(((10, "seen"), (20, "read")), frozenset(), ((5, StepEnd.SEEN),)))
@example(Scenario(((10, None), (20, "seen"), (5, None)), frozenset({1}), ((5, StepEnd.READ),)))
def test_steps_start_when_the_timetable_says(scenario: Scenario) -> None:
    assert simulate(scenario) == compute_starts(scenario)


def test_c39_what_is_more_includes_what_is_less() -> None:
    steps = [make_step(1, unless=unless) for unless in ("delivered", "seen", "read", "clicked")]
    steps = [structs.replace(step, step=position) for position, step in enumerate(steps, 1)]
    cancelled = {
        end: [step.unless for step in cancel_steps(steps, end, START) if step.ended_at is not None] for end in FULFILLED
    }
    assert cancelled == {
        StepEnd.DELIVERED: ["delivered"],
        StepEnd.SEEN: ["delivered", "seen"],
        StepEnd.READ: ["delivered", "seen", "read"],
        StepEnd.CLICKED: ["delivered", "seen", "read", "clicked"],
    }


def test_c39_an_event_cancels_the_steps_that_wait_for_it_and_no_others() -> None:
    steps = [make_step(1, unless="event"), make_step(2, unless="seen")]
    [step] = cancel_steps(steps, StepEnd.EVENT, START, event="invoice.paid")
    assert (step.step, step.ended_by) == (1, StepEnd.EVENT)
    assert cancel_steps(steps, StepEnd.EVENT, START, event="invoice.sent") == []


def test_c32_the_clock_does_not_start_while_the_step_before_is_held() -> None:
    steps = [make_step(1)]
    assert start_clock(steps, {"c0": {DeliveryState.PENDING}}, START) == []
    assert start_clock(steps, {"c0": {DeliveryState.SENDING, DeliveryState.REFUSED}}, START) == []
    [step] = start_clock(steps, {"c0": {DeliveryState.PENDING, DeliveryState.DELIVERED}}, START)
    assert step.due_at == START + timedelta(seconds=60)


def test_c32_a_step_that_is_cancelled_while_it_is_held_leaves_the_next_one_its_time() -> None:
    held = structs.replace(make_step(1), started_at=START)
    cancelled, following = cancel_steps([held, make_step(2, 100, "read")], StepEnd.SEEN, START + timedelta(seconds=30))
    assert cancelled.ended_by is StepEnd.SEEN
    assert following.due_at == START + timedelta(seconds=100)


def test_c41_a_step_in_which_nothing_is_planned_makes_the_next_one_due() -> None:
    due = structs.replace(make_step(1), due_at=START)
    _, following = start_step([due, make_step(2, 3600)], due, START, is_planned=False)
    assert following.due_at == START


def test_a_delivery_of_a_step_cancels_only_the_steps_after_it() -> None:
    steps = [structs.replace(make_step(1, unless="delivered"), started_at=START), make_step(2, unless="delivered")]
    [step] = cancel_steps(steps, StepEnd.DELIVERED, START, after=1)
    assert step.step == 2


def test_the_end_of_a_notification_keeps_what_was_started() -> None:
    steps = [structs.replace(make_step(1), started_at=START), make_step(2)]
    [step] = end_steps(steps, StepEnd.SUPERSEDED, START)
    assert (step.step, step.ended_by) == (2, StepEnd.SUPERSEDED)


@given(
    st.lists(st.sampled_from(("paid", "sent", None)), min_size=1, max_size=5),
    st.sets(st.sampled_from(("paid", "sent"))),
)
def test_events_before_the_planning_end_the_steps_that_wait_for_them(events: list[str | None], came: set[str]) -> None:
    steps = tuple(
        Step((f"channel-{number}",), 60, None if event is None else DomainEvent(event))
        for number, event in enumerate(events, 1)
    )
    notification = replace(make_notification(), channels=(), plan=PlanOptions((Step(("inapp",)), *steps)))
    happened = dict.fromkeys(came, START)
    planned = plan_waiting_steps(notification, "ana", happened, START, last=0, is_reached=True)
    assert [step.ended_by for step in planned] == [StepEnd.EVENT if event in came else None for event in events]
    assert {step.due_at for step in planned} == {None}, "the first step starts the clock"
    at_once = plan_waiting_steps(notification, "ana", happened, START, last=0, is_reached=False)
    following = next((number for number, event in enumerate(events) if event not in came), None)
    # each step that is cancelled leaves the next one its time; the first one does not wait
    due = {number: START + timedelta(seconds=60 * number) for number in range(len(events)) if number == following}
    assert {number: step.due_at for number, step in enumerate(at_once) if step.due_at is not None} == due
