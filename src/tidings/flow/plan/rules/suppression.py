"""A suppressed address is not written to.

Every message of every channel passes the preflight check, so that is the only time at which suppressions are known.
"""

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Skip
from tidings.model.delivery import SkipReason
from tidings.model.suppression import find_suppression


def check_suppression(candidate: Candidate, context: PlanContext) -> Skip | None:
    """Skip an address that bounced, complained, opted out, or was suppressed by an operator."""
    if not candidate.suppressions:
        return None
    senders = context.get_senders(candidate.channel)
    found = find_suppression(candidate.suppressions, context.category, senders, context.now)
    return None if found is None else Skip(SkipReason.SUPPRESSED, found.describe())
