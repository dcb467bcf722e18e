"""Of the notifications on a subject only the newest is sent."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason, superseded_detail


def check_supersession(candidate: Candidate, context: PlanContext) -> Skip | None:
    """Skip what a newer notification on the same subject superseded."""
    superseded_by = candidate.superseded_by or context.notification.superseded_by
    return None if superseded_by is None else Skip(SkipReason.SUPERSEDED, superseded_detail(superseded_by))
