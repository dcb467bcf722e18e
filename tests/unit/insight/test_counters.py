"""Figures that are kept elsewhere are brought up to date when somebody asks."""

from prometheus_client import REGISTRY

from tidings.insight import counters
from tidings.ports.cache import CacheStats


def test_a_gauge_shows_the_last_figure_that_was_offered() -> None:
    counters.reads(counters.IN_FLIGHT, lambda: 1)
    counters.reads(counters.IN_FLIGHT, lambda: 7)
    counters.refresh()
    assert REGISTRY.get_sample_value("tidings_sends_in_flight") == 7


def test_look_ups_are_counted_once() -> None:
    totals = [CacheStats(3, 1), CacheStats(3, 1), CacheStats(10, 2)]
    counters.reads_cache("things", lambda: totals.pop(0))
    for _ in range(3):
        counters.refresh()
    counters.reads_cache("things", lambda: CacheStats(0, 0))
    assert _look_ups("hit") == 10
    assert _look_ups("miss") == 2


def _look_ups(result: str) -> float | None:
    return REGISTRY.get_sample_value("tidings_cache_lookups_total", {"cache": "things", "result": result})


def test_breakers_are_shown_by_target() -> None:
    counters.reads_breakers(lambda: {"push.example": True, "other.example": False})
    counters.refresh()
    counters.reads_breakers(dict)
    assert REGISTRY.get_sample_value("tidings_breakers_open", {"target": "push.example"}) == 1
    assert REGISTRY.get_sample_value("tidings_breakers_open", {"target": "other.example"}) == 0
