"""Users receive the categories that they agreed to."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.consent import ConsentGranted, evaluate_consent
from tidings.model.decision import Skip


def check_category_consent(candidate: Candidate, context: PlanContext) -> Skip | ConsentGranted:
    """Skip a category that the user turned off or did not opt in to; otherwise return what permits it."""
    category, notification = context.category, context.notification
    decision = evaluate_consent(
        category,
        candidate.channel,
        candidate.preferences,
        defaults=context.preference_defaults,
        subject=notification.subject,
        variables=notification.variables,
    )
    if decision.is_granted:
        return decision.granted
    return Skip(decision.skip_reason, {"category": category.code} | decision.to_json())
