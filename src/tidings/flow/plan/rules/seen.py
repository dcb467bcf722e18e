"""A message that was held is not sent any more if the user has seen it in the feed meanwhile."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_seen(candidate: Candidate, _context: PlanContext) -> Skip | None:
    """Skip a held delivery that is released after the user has seen or read the notification."""
    if candidate.held_by is None or not candidate.is_seen:
        return None
    return Skip(SkipReason.SEEN, {"heldBy": candidate.held_by})
