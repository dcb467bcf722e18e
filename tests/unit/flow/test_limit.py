"""What counts against a reader's limit, and what becomes of the notification that is too much."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tidings.errors import ConfigError
from tidings.flow.intake.catalog import Catalog
from tidings.flow.plan.limit import Limits, held_back, reached, scope_of
from tidings.flow.plan.plan import Plan
from tidings.model.delivery import Planned, Skipped, SkipReason
from tidings.model.priority import Lane, Priority
from tidings.model.template import Category
from tidings.packs.core import pack
from tidings.ports.pack import Pack
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import a_notification

NEWS = Category("NEWS", "News")
OFFERS = Category("OFFERS", "Offers", hourly_limit=2)
NOTIFICATION = replace(a_notification(), priority=Priority.NORMAL)


def delivery(user_id: str, channel: str, target: str, *, of: str = NOTIFICATION.id, batch: str = "batch-1") -> Planned:
    return Planned(f"{of}-{target}", of, user_id, channel, target, batch, Lane.NORMAL, NOW, "on by default")


def test_the_settings_are_read_as_they_are_written() -> None:
    assert Limits.parse(20, ("ORDER_UPDATES=100", "MARKETING = 2")) == Limits(
        20, {"ORDER_UPDATES": 100, "MARKETING": 2}
    )
    assert Limits.parse(0, ()) == Limits()


def test_a_setting_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="many"):
        Limits.parse(20, ("OFFERS=many",))


@pytest.mark.parametrize(
    ("category", "limits", "expected"),
    [
        (NEWS, Limits(20), ("", 20)),
        (NEWS, Limits(0), None),
        (NEWS, Limits(), None),
        (NEWS, Limits(20, {"NEWS": 5}), ("NEWS", 5)),
        (NEWS, Limits(20, {"NEWS": 0}), None),
        (NEWS, Limits(0, {"NEWS": 5}), ("NEWS", 5)),
        (NEWS, Limits(20, {"OTHER": 5}), ("", 20)),
        (OFFERS, Limits(20), ("OFFERS", 2)),
        (OFFERS, Limits(0), ("OFFERS", 2)),
        (OFFERS, Limits(20, {"OFFERS": 7}), ("OFFERS", 7)),
        (OFFERS, Limits(20, {"OFFERS": 0}), None),
        (replace(OFFERS, hourly_limit=0), Limits(20), None),
    ],
)
def test_a_category_is_counted_by_itself_or_with_the_others(
    category: Category, limits: Limits, expected: tuple[str, int] | None
) -> None:
    assert scope_of(NOTIFICATION, category, limits) == expected


@pytest.mark.parametrize("category", [NEWS, OFFERS])
def test_urgent_notifications_and_mandatory_categories_are_not_counted(category: Category) -> None:
    limits = Limits(1, {"NEWS": 1})
    assert scope_of(replace(NOTIFICATION, priority=Priority.URGENT), category, limits) is None
    assert scope_of(NOTIFICATION, replace(category, mandatory=True), limits) is None
    assert scope_of(replace(NOTIFICATION, priority=Priority.HIGH), category, limits) is not None


def test_only_who_would_get_something_is_counted() -> None:
    made = Plan(
        [delivery("ben", "webpush", "b1"), delivery("ana", "webpush", "a1"), delivery("ana", "webpush", "a2")],
        [Skipped(NOTIFICATION.id, "cleo", "webpush", SkipReason.NO_DEVICE)],
    )
    made.planned.append(delivery("dora", "webpush", "d1", of="another"))
    assert reached(made, NOTIFICATION.id) == ["ana", "ben"]


def test_who_is_over_the_limit_gets_one_recorded_reason_per_channel_instead() -> None:
    made = Plan(
        [
            delivery("ana", "webpush", "a1"),
            delivery("ben", "webpush", "b1"),
            delivery("ben", "webpush", "b2"),
            delivery("ben", "email", "b3", batch="batch-2"),
        ],
        [Skipped(NOTIFICATION.id, "cleo", "webpush", SkipReason.NO_DEVICE)],
    )
    left = held_back(made, NOTIFICATION.id, {"ana"}, "", 20, category="NEWS")
    assert left.planned == made.planned[:1]
    assert left.batch_ids == ["batch-1"]
    detail: Mapping[str, object] = {"category": "NEWS", "scope": "", "limit": 20, "windowSeconds": 3600}
    assert left.skipped == [
        *made.skipped,
        Skipped(NOTIFICATION.id, "ben", "webpush", SkipReason.RATE_LIMITED, detail),
        Skipped(NOTIFICATION.id, "ben", "email", SkipReason.RATE_LIMITED, detail),
    ]


def test_a_plan_in_which_all_are_allowed_stays_as_it_is() -> None:
    made = Plan([delivery("ana", "webpush", "a1")], [])
    assert held_back(made, NOTIFICATION.id, {"ana", "ben"}, "", 20, category="NEWS") is made


def test_other_notifications_planned_together_are_left_alone() -> None:
    made = Plan([delivery("ana", "webpush", "a1"), delivery("ana", "webpush", "a1", of="another")], [])
    left = held_back(made, NOTIFICATION.id, (), "NEWS", 1, category="NEWS")
    assert [one.notification_id for one in left.planned] == ["another"]
    assert [one.notification_id for one in left.skipped] == [NOTIFICATION.id]


@pytest.mark.parametrize("limit", [-1, 10_001])
def test_a_pack_cannot_declare_a_limit_out_of_range(limit: int) -> None:
    with pytest.raises(ConfigError, match="category X needs an hourly_limit from 0 to 10000"):
        _catalog(Category("X", "X", hourly_limit=limit))


def test_a_limit_for_an_unknown_category_is_told_at_the_start_with_the_nearest_one() -> None:
    catalog = _catalog(OFFERS)
    catalog.check_limits({"OFFERS": 10_000, "MESSAGE": 0})
    with pytest.raises(ConfigError, match=r"TIDINGS_CATEGORY_LIMITS: no category 'OFFER'; did you mean 'OFFERS'\?"):
        catalog.check_limits({"MESSAGE": 1, "OFFER": 1})
    with pytest.raises(ConfigError, match="TIDINGS_CATEGORY_LIMITS: OFFERS needs a number from 0 to 10000"):
        catalog.check_limits({"OFFERS": 10_001})


def _catalog(*categories: Category) -> Catalog:
    packs = (pack, Pack("x", categories=categories))
    return Catalog.of(packs, channels=("webpush",), known_channels=("webpush",))
