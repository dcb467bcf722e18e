"""Users receive the categories that they agreed to."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.consent import ConsentGranted, evaluate_notification
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_category_consent(candidate: Candidate, context: PlanContext) -> Skip | ConsentGranted:
    """Skip a category that the user turned off or did not opt in to; otherwise return what permits it.

    A digest is skipped if the user receives none of its parts on the channel.
    """
    category = context.category
    decision = evaluate_notification(
        context.notification, category, candidate.channel, candidate.preferences, defaults=context.preference_defaults
    )
    if decision is None:
        return Skip(SkipReason.EMPTY_DIGEST)
    if decision.is_granted:
        return decision.granted
    return Skip(decision.skip_reason, {"category": category.code} | decision.to_json())
