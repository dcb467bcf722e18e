"""A cancelled notification is not sent any more."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_cancellation(candidate: Candidate, _context: PlanContext) -> Skip | None:
    """Skip a delivery whose notification was cancelled since it was planned."""
    return Skip(SkipReason.CANCELLED) if candidate.is_cancelled else None
