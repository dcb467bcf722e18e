"""A later step is not sent once the user saw the message, or did what the step waited for."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_step_success(candidate: Candidate, _context: PlanContext) -> Skip | None:
    """Skip a delivery whose step was cancelled."""
    ended_by = candidate.step_ended_by
    return None if ended_by is None else Skip(SkipReason.STEP_CANCELLED, {"by": ended_by})
