"""Nobody is told twice in a row the same of a subject."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_repetition(candidate: Candidate, context: PlanContext) -> Skip | None:
    """Skip a user who last heard of the subject what this notification says."""
    if not candidate.is_informed:
        return None
    return Skip(SkipReason.ALREADY_INFORMED, {"subject": context.notification.subject})
