"""Gauges are updated when metrics are collected."""

from collections.abc import Mapping, Sequence
from typing import cast

from msgspec import structs
from prometheus_client import REGISTRY

from tidings.model.provider import ProviderState, ProviderStatus
from tidings.observability import metrics
from tidings.ports.cache import CacheStats
from tidings.ports.channel import Channel


def test_a_gauge_has_the_value_of_the_last_registered_callback() -> None:
    metrics.register_gauge(metrics.SENDS_IN_FLIGHT, lambda: 1)
    metrics.register_gauge(metrics.SENDS_IN_FLIGHT, lambda: 7)
    metrics.collect()
    assert REGISTRY.get_sample_value("tidings_sends_in_flight") == 7


def test_look_ups_are_counted_once() -> None:
    totals = [CacheStats(3, 1), CacheStats(3, 1), CacheStats(10, 2)]
    metrics.register_cache("things", lambda: totals.pop(0))
    for _ in range(3):
        metrics.collect()
    metrics.register_cache("things", lambda: CacheStats(0, 0))
    assert _look_ups("hit") == 10
    assert _look_ups("miss") == 2


def _look_ups(result: str) -> float | None:
    return REGISTRY.get_sample_value("tidings_cache_lookups_total", {"cache": "things", "result": result})


def test_breakers_are_shown_by_target() -> None:
    metrics.register_breakers(lambda: {"push.example": True, "other.example": False})
    metrics.collect()
    metrics.register_breakers(dict)
    assert REGISTRY.get_sample_value("tidings_breakers_open", {"target": "push.example"}) == 1
    assert REGISTRY.get_sample_value("tidings_breakers_open", {"target": "other.example"}) == 0


class ChannelWithProviders:
    """A channel of which only the providers matter."""

    def __init__(self, status: ProviderStatus) -> None:
        self.status = status

    def list_providers(self) -> Sequence[ProviderStatus]:
        return [self.status]


def test_totals_of_providers_are_counters() -> None:
    status = ProviderStatus(
        channel="email",
        name="relay.example:587",
        state=ProviderState.ACTIVE,
        circuit="closed",
        weight=100,
        effective_weight=100.0,
        rate=0.0,
        rate_limit=None,
        requests=0,
        errors=0,
        requests_total=7,
        errors_total=2,
        outages_total=1,
    )
    channel = ChannelWithProviders(status)
    metrics.register_providers(cast(Mapping[str, Channel], {"email": channel}))
    metrics.collect()
    channel.status = structs.replace(status, requests_total=10)
    metrics.collect()
    metrics.register_providers({})
    labels = {"channel": "email", "provider": "relay.example:587"}
    names = ("requests", "errors", "outages")
    values = [REGISTRY.get_sample_value(f"tidings_provider_{name}_total", labels) for name in names]
    assert values == [10, 2, 1]
