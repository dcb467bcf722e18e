"""The cache of notifications: its memory is bounded, whatever the notifications contain."""

from dataclasses import replace

from tidings.flow.notifications import NotificationCache
from tidings.model.audience import users
from tidings.model.notification import DigestPart, Notification
from tidings.model.request import MAX_VARIABLES_BYTES
from tidings.testing.contracts.samples import make_notification

LARGE = {"body": "x" * (MAX_VARIABLES_BYTES - 100)}


def count_cached(notifications: list[Notification]) -> int:
    """Cache notifications, and return how many of them are cached then."""
    cache = NotificationCache()
    for notification in notifications:
        cache.put(notification)
    return sum(cache.get(one.id) is not None for one in notifications)


def test_large_notifications_are_fewer_in_the_cache_than_small_ones() -> None:
    small = [make_notification() for _ in range(1_000)]
    assert count_cached(small) == 1_000
    large = [replace(one, variables=LARGE) for one in small]
    assert 200 < count_cached(large) < 600
    with_states = [replace(one, variables={}, subject_state=LARGE, subject_previous_state=LARGE) for one in small]
    assert 100 < count_cached(with_states) < 300


def test_a_digest_is_not_cached_because_preferences_decide_what_is_read_of_it() -> None:
    assert count_cached([replace(make_notification(), digest_id="d1", parts=[DigestPart("n1", None, {})])]) == 0


def test_a_notification_that_names_many_users_is_not_cached() -> None:
    names = [f"user-{number}" for number in range(10_000)]
    assert count_cached([replace(make_notification(), audience=users(*names))]) == 0
    assert count_cached([replace(make_notification(), audience=users(*names[:100]))]) == 1
