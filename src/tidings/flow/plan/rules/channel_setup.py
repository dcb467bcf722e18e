"""A channel that is not configured sends nothing."""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason


def check_channel_setup(candidate: Candidate, context: PlanContext) -> Skip | None:
    """Skip a channel that is not configured, with the setting that configures it."""
    if candidate.channel in context.channels:
        return None
    setting = context.get_traits(candidate.channel).setting
    return Skip(SkipReason.CHANNEL_NOT_SET_UP, {"category": context.category.code, "setting": setting})
