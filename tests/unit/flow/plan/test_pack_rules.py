"""Rules of packs decide after those of the engine, in planning and in the preflight check, under their own names."""

from collections.abc import Mapping
from datetime import timedelta

import pytest
from msgspec import structs

from tidings.errors import ConfigError
from tidings.flow.catalog import Catalog
from tidings.flow.deliver.preflight import preflight
from tidings.flow.fanout.delivery_ids import generate_ids
from tidings.flow.fanout.planner import plan_page
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.preference import Preference
from tidings.model.template import Category
from tidings.ports.pack import Pack, PackRule, RuleInput
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_claimed_delivery, make_notification

NEWS = Category("NEWS", "News")
NOTIFICATION = make_notification()
LATER = NOW + timedelta(hours=9)
ANA = Recipient("ana", "en", "Asia/Tokyo", (), {"webpush": ["a1"]})


def skip_ana(given: RuleInput) -> Skip | None:
    return given.skip(zone=given.timezone, channel=given.channel) if given.user_id == "ana" else None


def hold(given: RuleInput) -> Defer | None:
    return given.defer(LATER, opens=9) if given.now < LATER else None


def fail(given: RuleInput) -> Skip | None:
    raise KeyError(given.user_id)


def decide_before_sending(rules: Mapping[str, PackRule], *preferences: Preference) -> Skip | Defer | None:
    delivery = structs.replace(
        make_claimed_delivery(NOTIFICATION), user_id="ana", timezone="Asia/Tokyo", preferences=preferences
    )
    return preflight(
        delivery, NOTIFICATION, NEWS, is_in_audience=True, now=NOW, channels=("webpush",), pack_rules=rules
    )


@pytest.mark.parametrize(
    ("rules", "decision"),
    [
        (
            {"closed": skip_ana},
            Skip(SkipReason.PACK_RULE, {"zone": "Asia/Tokyo", "channel": "webpush", "rule": "closed"}),
        ),
        ({"opening_hours": hold, "closed": skip_ana}, Defer(LATER, "opening_hours", {"opens": 9})),
        ({"broken": fail}, Skip(SkipReason.PACK_RULE, {"rule": "broken", "error": "KeyError: 'ana'"})),
        ({"silent": lambda _given: None}, None),
    ],
)
def test_a_rule_decides_in_planning_and_before_sending(
    rules: Mapping[str, PackRule], decision: Skip | Defer | None
) -> None:
    plan = plan_page(
        [ANA],
        NOTIFICATION,
        NEWS,
        channels=("webpush",),
        ids=generate_ids(200, NOW),
        now=NOW,
        pack_rules=rules,
    )
    if isinstance(decision, Skip):
        assert [(one.reason, one.detail) for one in plan.skipped] == [(decision.reason, decision.detail)]
    else:
        held = None if decision is None else (decision.until, decision.rule, decision.detail)
        [planned] = plan.planned
        assert (None if planned.held_by is None else (planned.due_at, planned.held_by, planned.detail)) == held
    assert decide_before_sending(rules) == decision


def test_a_rule_of_a_pack_is_asked_after_those_of_the_engine() -> None:
    decision = decide_before_sending({"closed": skip_ana}, Preference("NEWS", "webpush", enabled=False))
    assert isinstance(decision, Skip)
    assert decision.reason is SkipReason.PREFERENCE_OFF


def test_two_packs_do_not_declare_the_same_rule() -> None:
    packs = [Pack("a", rules={"closed": hold}), Pack("b", rules={"closed": skip_ana})]
    with pytest.raises(ConfigError, match="two packs declare the rule closed"):
        Catalog.from_packs(packs, channels=(), known_channels=())
    assert dict(Catalog.from_packs(packs[:1], channels=(), known_channels=()).rules) == {"closed": hold}
