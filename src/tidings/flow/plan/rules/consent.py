"""Users receive the categories that they agreed to."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.consent import ConsentGranted, check_consent
from tidings.model.decision import Skip


def check_category_consent(candidate: Candidate, context: PlanContext) -> Skip | ConsentGranted:
    """Skip a category that the user turned off or did not opt in to; otherwise return what permits it."""
    decision = check_consent(candidate.preference, context.category)
    if isinstance(decision, ConsentGranted):
        return decision
    return Skip(decision, {"category": context.category.code})
