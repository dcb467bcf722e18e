"""What counts towards a user's rate limit, and what happens to notifications over the limit."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tidings.errors import ConfigError
from tidings.flow.catalog import Catalog
from tidings.flow.fanout.planner import Plan
from tidings.flow.fanout.user_rate_limit import RateLimitPolicy, apply_limit, limit_scope, recipients_of
from tidings.model.delivery import PlannedDelivery, SkipReason, SkipRecord
from tidings.model.priority import Lane, Priority
from tidings.model.template import Category
from tidings.packs.core import pack
from tidings.ports.pack import Pack
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

NEWS = Category("NEWS", "News")
OFFERS = Category("OFFERS", "Offers", hourly_limit=2)
NOTIFICATION = replace(make_notification(), priority=Priority.NORMAL)


def delivery(
    user_id: str, channel: str, target: str, *, of: str = NOTIFICATION.id, batch: str = "batch-1"
) -> PlannedDelivery:
    return PlannedDelivery(f"{of}-{target}", of, user_id, channel, target, batch, Lane.NORMAL, NOW, "on by default")


def test_the_settings_are_parsed() -> None:
    assert RateLimitPolicy.parse(20, ("ORDER_UPDATES=100", "MARKETING = 2")) == RateLimitPolicy(
        20, {"ORDER_UPDATES": 100, "MARKETING": 2}
    )
    assert RateLimitPolicy.parse(0, ()) == RateLimitPolicy()


def test_an_invalid_setting_is_rejected() -> None:
    with pytest.raises(ValueError, match="many"):
        RateLimitPolicy.parse(20, ("OFFERS=many",))


@pytest.mark.parametrize(
    ("category", "limits", "expected"),
    [
        (NEWS, RateLimitPolicy(20), ("", 20)),
        (NEWS, RateLimitPolicy(0), None),
        (NEWS, RateLimitPolicy(), None),
        (NEWS, RateLimitPolicy(20, {"NEWS": 5}), ("NEWS", 5)),
        (NEWS, RateLimitPolicy(20, {"NEWS": 0}), None),
        (NEWS, RateLimitPolicy(0, {"NEWS": 5}), ("NEWS", 5)),
        (NEWS, RateLimitPolicy(20, {"OTHER": 5}), ("", 20)),
        (OFFERS, RateLimitPolicy(20), ("OFFERS", 2)),
        (OFFERS, RateLimitPolicy(0), ("OFFERS", 2)),
        (OFFERS, RateLimitPolicy(20, {"OFFERS": 7}), ("OFFERS", 7)),
        (OFFERS, RateLimitPolicy(20, {"OFFERS": 0}), None),
        (replace(OFFERS, hourly_limit=0), RateLimitPolicy(20), None),
    ],
)
def test_a_category_is_counted_by_itself_or_with_the_others(
    category: Category, limits: RateLimitPolicy, expected: tuple[str, int] | None
) -> None:
    assert limit_scope(NOTIFICATION, category, limits) == expected


@pytest.mark.parametrize("category", [NEWS, OFFERS])
def test_urgent_notifications_and_mandatory_categories_are_not_counted(category: Category) -> None:
    limits = RateLimitPolicy(1, {"NEWS": 1})
    assert limit_scope(replace(NOTIFICATION, priority=Priority.URGENT), category, limits) is None
    assert limit_scope(NOTIFICATION, replace(category, mandatory=True), limits) is None
    assert limit_scope(replace(NOTIFICATION, priority=Priority.HIGH), category, limits) is not None


def test_only_users_with_deliveries_are_counted() -> None:
    made = Plan(
        [delivery("ben", "webpush", "b1"), delivery("ana", "webpush", "a1"), delivery("ana", "webpush", "a2")],
        [SkipRecord(NOTIFICATION.id, "cleo", "webpush", SkipReason.NO_DEVICE)],
    )
    made.planned.append(delivery("dora", "webpush", "d1", of="another"))
    assert recipients_of(made, NOTIFICATION.id) == ["ana", "ben"]


def test_a_user_over_the_limit_gets_one_skip_per_channel() -> None:
    made = Plan(
        [
            delivery("ana", "webpush", "a1"),
            delivery("ben", "webpush", "b1"),
            delivery("ben", "webpush", "b2"),
            delivery("ben", "email", "b3", batch="batch-2"),
        ],
        [SkipRecord(NOTIFICATION.id, "cleo", "webpush", SkipReason.NO_DEVICE)],
    )
    left = apply_limit(made, NOTIFICATION.id, {"ana"}, "", 20, category="NEWS")
    assert left.planned == made.planned[:1]
    detail: Mapping[str, object] = {"category": "NEWS", "scope": "", "limit": 20, "windowSeconds": 3600}
    assert left.skipped == [
        *made.skipped,
        SkipRecord(NOTIFICATION.id, "ben", "webpush", SkipReason.RATE_LIMITED, detail),
        SkipRecord(NOTIFICATION.id, "ben", "email", SkipReason.RATE_LIMITED, detail),
    ]


def test_a_plan_within_the_limits_is_unchanged() -> None:
    made = Plan([delivery("ana", "webpush", "a1")], [])
    assert apply_limit(made, NOTIFICATION.id, {"ana", "ben"}, "", 20, category="NEWS") is made


def test_other_notifications_of_the_page_are_unchanged() -> None:
    made = Plan([delivery("ana", "webpush", "a1"), delivery("ana", "webpush", "a1", of="another")], [])
    left = apply_limit(made, NOTIFICATION.id, (), "NEWS", 1, category="NEWS")
    assert [one.notification_id for one in left.planned] == ["another"]
    assert [one.notification_id for one in left.skipped] == [NOTIFICATION.id]


@pytest.mark.parametrize("limit", [-1, 10_001])
def test_a_pack_cannot_declare_a_limit_out_of_range(limit: int) -> None:
    with pytest.raises(ConfigError, match="category X needs an hourly_limit from 0 to 10000"):
        _catalog(Category("X", "X", hourly_limit=limit))


def test_a_limit_for_an_unknown_category_is_rejected_at_startup_with_a_suggestion() -> None:
    catalog = _catalog(OFFERS)
    catalog.check_categories("TIDINGS_CATEGORY_LIMITS", ["OFFERS", "MESSAGE"])
    with pytest.raises(ConfigError, match=r"TIDINGS_CATEGORY_LIMITS: no category 'OFFER'; did you mean 'OFFERS'\?"):
        catalog.check_categories("TIDINGS_CATEGORY_LIMITS", ["MESSAGE", "OFFER"])


def _catalog(*categories: Category) -> Catalog:
    packs = (pack, Pack("x", categories=categories))
    return Catalog.from_packs(packs, channels=("webpush",), known_channels=("webpush",))
