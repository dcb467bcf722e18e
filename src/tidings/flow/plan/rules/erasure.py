"""An erased user is not written to."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_erasure(candidate: Candidate, _context: PlanContext) -> Skip | None:
    """Skip a delivery to a user who was erased since it was planned."""
    return None if candidate.user_exists else Skip(SkipReason.USER_ERASED)
