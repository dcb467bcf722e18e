"""The whole chain of rules: their order, which precedes which, and that the documentation shows the same."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import combinations
from pathlib import Path

import pytest
from msgspec import structs

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.flow.plan.chain import RULES, decide
from tidings.model.decision import Defer, Skip, find_rule
from tidings.model.delivery import SkipReason
from tidings.model.preference import ANY, Preference
from tidings.model.suppression import Suppression, SuppressionReason
from tidings.model.template import Category
from tidings.model.user_schedule import QuietHours, UserSchedule
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

PAGE = Path(__file__).parents[4] / "docs" / "explanation" / "plan.md"
NEWS = Category("NEWS", "News")
NOTIFICATION = replace(make_notification(), subject="event:9")
CONTEXT = PlanContext(NOTIFICATION, NEWS, ("webpush",), NOW)
PLAIN = Candidate("ana", "webpush", (), has_contact_point=True)
BOUNCED = Suppression("s1", "webpush", SuppressionReason.HARD_BOUNCE, "a@b.example", NOW, NOW)


def keep(context: PlanContext) -> PlanContext:
    return context


@dataclass(frozen=True)
class Obstacle:
    """What makes a rule skip."""

    rule: str
    reason: SkipReason
    candidate: Mapping[str, object] = field(default_factory=dict)
    context: Callable[[PlanContext], PlanContext] = keep


#: in the order of the chain
OBSTACLES = (
    Obstacle("cancellation", SkipReason.CANCELLED, {"is_cancelled": True}),
    Obstacle("supersession", SkipReason.SUPERSEDED, {"superseded_by": "n2"}),
    Obstacle("step_success", SkipReason.STEP_CANCELLED, {"step_ended_by": "seen"}),
    Obstacle("seen", SkipReason.SEEN, {"held_by": "quiet_hours", "is_seen": True}),
    Obstacle("expiry", SkipReason.EXPIRED, context=lambda of: structs.replace(of, now=NOW + timedelta(days=2))),
    Obstacle("erasure", SkipReason.USER_ERASED, {"user_exists": False}),
    Obstacle("audience_membership", SkipReason.LEFT_AUDIENCE, {"is_in_audience": False}),
    Obstacle("repetition", SkipReason.ALREADY_INFORMED, {"is_informed": True}),
    Obstacle("channel_setup", SkipReason.CHANNEL_NOT_SET_UP, context=lambda of: structs.replace(of, channels=())),
    Obstacle("consent", SkipReason.PREFERENCE_OFF, {"preferences": (Preference(ANY, ANY, False, "event:9"),)}),
    Obstacle("contact_point", SkipReason.NO_CONTACT_POINT, {"has_contact_point": False}),
    Obstacle("suppression", SkipReason.SUPPRESSED, {"suppressions": (BOUNCED,)}),
)


def ask(*obstacles: Obstacle) -> Skip:
    """Return the decision of the chain on a candidate whom all of these stop."""
    candidate, context = PLAIN, CONTEXT
    for obstacle in obstacles:
        candidate = structs.replace(candidate, **obstacle.candidate)
        context = obstacle.context(context)
    decision = decide(candidate, context).decision
    assert isinstance(decision, Skip)
    return decision


def test_nothing_stops_a_plain_candidate() -> None:
    assert decide(PLAIN, CONTEXT).decision is None
    assert decide(PLAIN, CONTEXT).consent == "on by default"


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda one: one.rule)
def test_each_rule_skips_for_its_reason(obstacle: Obstacle) -> None:
    decision = ask(obstacle)
    assert decision.reason is obstacle.reason
    assert find_rule(decision.reason, decision.detail) == obstacle.rule


@pytest.mark.parametrize(("earlier", "later"), list(combinations(OBSTACLES, 2)), ids=lambda one: one.rule)
def test_the_earlier_rule_precedes_the_later_one(earlier: Obstacle, later: Obstacle) -> None:
    assert ask(later, earlier).reason is earlier.reason


def test_the_page_shows_the_rules_in_their_order() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## The order")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| \d+ \| `(\w+)` \|", section, flags=re.MULTILINE)
    assert shown == [rule.__name__.removeprefix("check_").removeprefix("category_") for rule in RULES]


def test_quiet_hours_hold_what_everything_else_permits() -> None:
    at_noon = UserSchedule("UTC", (QuietHours("11:00", "13:00"),))
    quiet = structs.replace(PLAIN, schedule=at_noon)
    held = decide(quiet, CONTEXT).decision
    assert isinstance(held, Defer)
    assert (held.rule, held.until) == ("quiet_hours", NOW + timedelta(hours=1))
    for obstacle in OBSTACLES:
        decision = decide(structs.replace(quiet, **obstacle.candidate), obstacle.context(CONTEXT)).decision
        assert isinstance(decision, Skip), obstacle.rule
        assert decision.reason is obstacle.reason


def test_a_mandatory_category_is_stopped_by_all_rules_but_consent() -> None:
    duty = structs.replace(CONTEXT, category=replace(NEWS, mandatory=True))
    for obstacle in OBSTACLES:
        verdict = decide(structs.replace(PLAIN, **obstacle.candidate), obstacle.context(duty))
        is_stopped = isinstance(verdict.decision, Skip)
        assert is_stopped is (obstacle.rule != "consent"), obstacle.rule
        assert verdict.consent in ("", "mandatory")
