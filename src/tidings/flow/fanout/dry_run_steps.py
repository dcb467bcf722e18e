"""The later steps of a notification for one user in a dry run: when each starts at the earliest, and its plan. Pure.

The clock of a dry run is virtual. Nothing that cancels a step happens, and what is planned is handed over as soon as
the rules permit. The steps change by the rules of `tidings.model.waiting_step`, as the stored ones do.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from tidings.flow.fanout.planner import Plan
from tidings.model.waiting_step import WaitingStep, start_next, start_step

#: (channels of a step, its time) → what would be planned then
PlanStep = Callable[[Sequence[str], datetime], Plan]


def iter_later_steps(first: Plan, user_id: str, plan_step: PlanStep) -> Iterator[tuple[WaitingStep, datetime, Plan]]:
    """Yield each later step of a user with when it starts at the earliest, and what would be planned then.

    first: what is planned with the notification.
    """
    steps = {one.step: one for one in first.waiting if one.user_id == user_id}
    sent_at = _find_earliest_send(first, user_id)
    while True:
        if sent_at is not None:
            steps |= {one.step: one for one in start_next(list(steps.values()), sent_at)}
        step = next((one for one in steps.values() if one.is_waiting), None)
        if step is None or step.due_at is None:
            return
        plan = plan_step(step.channels, step.due_at)
        yield step, step.due_at, plan
        started = start_step(list(steps.values()), step, step.due_at, is_planned=bool(plan.planned))
        steps |= {one.step: one for one in started}
        sent_at = _find_earliest_send(plan, user_id)


def _find_earliest_send(plan: Plan, user_id: str) -> datetime | None:
    """Return when the first message to a user is handed over at the earliest, None if nothing is planned."""
    times = [one.due_at for one in plan.planned if one.user_id == user_id]
    times += [one.window.closes_at for one in plan.collected if one.key.user_id == user_id]
    return min(times, default=None)
