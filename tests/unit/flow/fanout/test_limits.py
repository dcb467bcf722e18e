"""What counts towards a user's rate limit, and what happens to notifications over the limit."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tidings.errors import ConfigError
from tidings.flow.catalog import Catalog
from tidings.flow.fanout.limits import (
    WINDOW,
    Limit,
    RateLimitPolicy,
    apply_limit,
    count_messages,
    describe_limit,
    limit_scope,
    list_limits,
    select_allowed,
)
from tidings.flow.fanout.planner import Plan
from tidings.model.delivery import PlannedDelivery, SkipReason, SkipRecord
from tidings.model.frequency_cap import FrequencyCap, parse_frequency_caps
from tidings.model.notification import Notification
from tidings.model.plan_options import PlanOptions, ThrottleOptions
from tidings.model.priority import Lane, Priority
from tidings.model.template import Category
from tidings.packs.core import pack
from tidings.ports.pack import Pack
from tidings.testing.clock import START as NOW
from tidings.testing.contracts.samples import make_notification

NEWS = Category("NEWS", "News")
OFFERS = Category("OFFERS", "Offers", hourly_limit=2)
HOURLY = Limit("", 20, WINDOW, True, SkipReason.RATE_LIMITED)
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


def throttled(key_value: str | None = "7") -> Notification:
    throttle = ThrottleOptions(2, 60, key="orderId", key_value=key_value)
    return replace(NOTIFICATION, plan=PlanOptions(throttle=throttle))


def test_c33_a_throttle_counts_per_template_and_key() -> None:
    [limit, *_] = list_limits(throttled(), NEWS, RateLimitPolicy())
    assert limit is not None
    assert (limit.amount, limit.window.total_seconds(), limit.reason) == (2, 60, SkipReason.THROTTLED)
    assert describe_limit(limit, "NEWS") == {
        "category": "NEWS",
        "scope": "throttle",
        "limit": 2,
        "windowSeconds": 60,
        "template": NOTIFICATION.template_code,
        "key": "7",
    }
    scopes = set()
    for notification in (throttled(), throttled("8"), throttled(None), replace(throttled(), template_code="OTHER")):
        [limit, *_] = list_limits(notification, NEWS, RateLimitPolicy())
        assert limit is not None
        assert len(limit.scope) <= 64, "the length of the column"
        scopes.add(limit.scope)
    assert len(scopes) == 4


@pytest.mark.parametrize(
    ("notification", "category"),
    [
        (replace(throttled(), priority=Priority.URGENT), NEWS),
        (throttled(), replace(NEWS, mandatory=True)),
    ],
)
def test_c35_urgent_and_mandatory_messages_count_and_are_never_stopped(
    notification: Notification, category: Category
) -> None:
    policy = RateLimitPolicy(20, frequency_caps=parse_frequency_caps(["3/day", "10/week"]), installation_cap=1_000)
    throttle, hourly, *others = list_limits(notification, category, policy)
    assert throttle is not None
    assert hourly is None
    assert [limit.is_enforced for limit in (throttle, *others) if limit is not None] == [False] * 4
    enforced = [limit.is_enforced for limit in list_limits(throttled(), NEWS, policy) if limit is not None]
    assert enforced == [True] * 5


def test_c34_a_later_step_counts_for_the_installation_alone() -> None:
    policy = RateLimitPolicy(20, {"NEWS": 5}, parse_frequency_caps(["3/day"]), installation_cap=1_000)
    [limit] = list_limits(throttled(), NEWS, policy, is_later_step=True)
    assert limit is not None
    assert (limit.scope, limit.amount, limit.counts_messages) == ("installation", 1_000, True)
    assert list_limits(throttled(), NEWS, replace(policy, installation_cap=0), is_later_step=True) == (None,)


def test_a_user_receives_all_messages_of_a_notification_or_none_under_a_limit_of_messages() -> None:
    limit = Limit("installation", 10, WINDOW, True, SkipReason.RATE_LIMITED, counts_messages=True)
    demands = {"one": {"ana": 3, "ben": 2, "cem": 0}, "two": {"ben": 1}}
    assert select_allowed(demands, limit, 6) == ({"one": {"ana", "cem"}, "two": {"ben"}}, 10)
    unlimited = replace(limit, is_enforced=False)
    assert select_allowed(demands, unlimited, 10) == ({"one": {"ana", "ben", "cem"}, "two": {"ben"}}, 16)


def test_frequency_caps_are_parsed_the_shortest_window_first() -> None:
    assert parse_frequency_caps(["10/week", "3/day"]) == (FrequencyCap(3, "day"), FrequencyCap(10, "week"))
    for wrong in ("3", "0/day", "3/year", "10001/day", "-1/day", "3/day/week"):
        with pytest.raises(ValueError, match="3/day,10/week"):
            parse_frequency_caps([wrong])
    with pytest.raises(ValueError, match="second cap per day"):
        parse_frequency_caps(["3/day", "4/day"])


def test_only_users_with_deliveries_are_counted() -> None:
    made = Plan(
        [delivery("ben", "webpush", "b1"), delivery("ana", "webpush", "a1"), delivery("ana", "webpush", "a2")],
        [SkipRecord(NOTIFICATION.id, "cleo", "webpush", SkipReason.NO_DEVICE)],
    )
    made.planned.append(delivery("dora", "webpush", "d1", of="another"))
    made.planned.append(delivery("cem", "inapp", "c1"))
    counted = count_messages(made, NOTIFICATION.id, lambda channel: channel != "inapp")
    assert list(counted.items()) == [("ana", 2), ("ben", 1), ("cem", 0)]


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
    left = apply_limit(made, NOTIFICATION.id, {"ana"}, HOURLY, "NEWS", {"ben": {"count": 20}})
    assert left.planned == made.planned[:1]
    detail: Mapping[str, object] = {"category": "NEWS", "scope": "", "limit": 20, "windowSeconds": 3600, "count": 20}
    assert left.skipped == [
        *made.skipped,
        SkipRecord(NOTIFICATION.id, "ben", "webpush", SkipReason.RATE_LIMITED, detail),
        SkipRecord(NOTIFICATION.id, "ben", "email", SkipReason.RATE_LIMITED, detail),
    ]


def test_a_plan_within_the_limits_is_unchanged() -> None:
    made = Plan([delivery("ana", "webpush", "a1")], [])
    assert apply_limit(made, NOTIFICATION.id, {"ana", "ben"}, HOURLY, "NEWS") is made


def test_other_notifications_of_the_page_are_unchanged() -> None:
    made = Plan([delivery("ana", "webpush", "a1"), delivery("ana", "webpush", "a1", of="another")], [])
    left = apply_limit(made, NOTIFICATION.id, (), HOURLY, "NEWS")
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
