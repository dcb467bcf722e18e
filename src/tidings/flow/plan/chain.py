"""The chain of rules, in the order in which they are asked. The first that decides ends it."""

from typing import NamedTuple

from tidings.flow.plan.candidate import Candidate, PlanContext, Rule
from tidings.flow.plan.pack_rules import apply_pack_rules
from tidings.flow.plan.rules.audience_membership import check_audience_membership
from tidings.flow.plan.rules.cancellation import check_cancellation
from tidings.flow.plan.rules.channel_setup import check_channel_setup
from tidings.flow.plan.rules.consent import check_category_consent
from tidings.flow.plan.rules.contact_point import check_contact_point
from tidings.flow.plan.rules.erasure import check_erasure
from tidings.flow.plan.rules.expiry import check_expiry
from tidings.flow.plan.rules.quiet_hours import check_quiet_hours
from tidings.flow.plan.rules.repetition import check_repetition
from tidings.flow.plan.rules.seen import check_seen
from tidings.flow.plan.rules.step_success import check_step_success
from tidings.flow.plan.rules.supersession import check_supersession
from tidings.flow.plan.rules.suppression import check_suppression
from tidings.model.consent import ConsentGranted
from tidings.model.decision import Defer, Skip

RULES: tuple[Rule, ...] = (
    check_cancellation,
    check_supersession,
    check_step_success,
    check_seen,
    check_expiry,
    check_erasure,
    check_audience_membership,
    check_repetition,
    check_channel_setup,
    check_category_consent,
    check_contact_point,
    check_suppression,
)


class Verdict(NamedTuple):
    """The result of the chain."""

    #: None = send now
    decision: Skip | Defer | None
    #: why the user receives the category; empty if an earlier rule decided
    consent: str


def decide(candidate: Candidate, context: PlanContext) -> Verdict:
    """Ask the rules in order. Planning and the preflight check call this with the data of their time."""
    consent = ""
    for rule in RULES:
        outcome = rule(candidate, context)
        if outcome is None:
            continue
        if isinstance(outcome, ConsentGranted):
            consent = outcome.rule
            continue
        return Verdict(outcome, consent)
    # quiet hours last, so that a message is held only if everything else permits it
    return Verdict(apply_pack_rules(candidate, context) or check_quiet_hours(candidate, context), consent)
