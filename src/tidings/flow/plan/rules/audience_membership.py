"""Who left the audience is not notified, for example after returning a ticket."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_audience_membership(candidate: Candidate, _context: PlanContext) -> Skip | None:
    """Skip a delivery to a user who has left the audience since it was planned."""
    return None if candidate.is_in_audience else Skip(SkipReason.LEFT_AUDIENCE)
