"""Prometheus counters of what providers report."""

from collections.abc import Sequence

from prometheus_client import Counter

from tidings.model.receipt import ProviderEvent

HOOK_CALLS = Counter(
    "tidings_hook_calls",
    "Calls of providers: accepted, rejected (not verified) or invalid",
    ("channel", "provider", "result"),
)
PROVIDER_EVENTS = Counter(
    "tidings_provider_events",
    "Events of providers by status and by what they say of the address, repeats excluded",
    ("channel", "provider", "status", "cause"),
)


def create_hook_series(hooks: Sequence[tuple[str, str]]) -> None:
    """Create the series of hooks (channel, provider) with the value 0, so that an alarm can tell 0 from no data."""
    for channel, provider in hooks:
        PROVIDER_EVENTS.labels(channel, provider, "delivered", "none")
        for result in ("accepted", "rejected", "invalid"):
            HOOK_CALLS.labels(channel, provider, result)


def count_provider_event(event: ProviderEvent) -> None:
    """Count an event that a provider reported."""
    status = "none" if event.status is None else event.status.value
    PROVIDER_EVENTS.labels(event.channel, event.provider, status, event.cause.value).inc()
