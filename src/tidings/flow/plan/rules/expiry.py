"""Nothing is sent after its expiry."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_expiry(candidate: Candidate, context: PlanContext) -> Skip | None:
    """Skip a notification that has less time left than the context requires."""
    notification = context.notification
    if context.now < notification.expires_at and context.now + context.min_lifetime <= notification.expires_at:
        return None
    detail = {"expiresAt": notification.expires_at.isoformat(timespec="seconds")}
    return Skip(SkipReason.EXPIRED, detail if candidate.held_by is None else detail | {"heldBy": candidate.held_by})
