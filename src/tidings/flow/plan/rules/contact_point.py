"""A channel needs a contact point of the user, except those that reach every user."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip


def check_contact_point(candidate: Candidate, context: PlanContext) -> Skip | None:
    """Skip a channel on which the user has no usable contact point."""
    traits = context.get_traits(candidate.channel)
    if candidate.has_contact_point or not traits.needs_contact_point:
        return None
    return Skip(traits.missing_contact, {"category": context.category.code})
