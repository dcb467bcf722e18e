"""Rules of packs, asked in the order of their declaration after all rules of the engine."""

from dataclasses import replace

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import SkipReason
from tidings.ports.pack import RuleInput


def apply_pack_rules(candidate: Candidate, context: PlanContext) -> Skip | Defer | None:
    """Return the decision of the first rule that makes one, under the name of the rule.

    A rule that fails skips the recipient, and the error is recorded: it must not stop the plan of everybody else.
    """
    if not context.pack_rules:
        return None
    given = RuleInput(
        candidate.user_id,
        candidate.channel,
        candidate.timezone,
        context.notification,
        context.category,
        context.now,
    )
    for name, rule in context.pack_rules.items():
        try:
            decision = rule(given)
        except Exception as error:  # noqa: BLE001 (code of somebody else; recorded)
            return Skip(SkipReason.PACK_RULE, {"rule": name, "error": f"{type(error).__name__}: {error}"})
        if isinstance(decision, Skip):
            return replace(decision, detail={**decision.detail, "rule": name})
        if decision is not None:
            return replace(decision, rule=name)
    return None
