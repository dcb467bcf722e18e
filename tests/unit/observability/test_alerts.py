"""The registry of operator alerts: logged once, shared through the database, kept until their cause is over."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from tidings.model.alert import AlertName
from tidings.observability.alerts import MAX_ALERTS, AlertRegistry
from tidings.stores.store import SqlStore
from tidings.testing.clock import FrozenClock

REFUSED = AlertName.PUSH_TOKEN_REFUSED
HOST = "https://push.example"


class Processes:
    """Two processes with one database."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.clock = FrozenClock()
        self.one, self.two = AlertRegistry(self.clock), AlertRegistry(self.clock)

    async def merge(self, *registries: AlertRegistry) -> None:
        for registry in registries:
            async with self.store.transaction() as tx:
                await registry.merge(self.store, tx)

    def known(self, registry: AlertRegistry) -> list[tuple[str, str]]:
        return [(alert.name.value, alert.detail) for alert in registry.list_active()]


@pytest.fixture
def processes(store: SqlStore) -> Processes:
    return Processes(store)


def test_an_alert_is_logged_when_it_begins_and_when_it_ends(processes: Processes) -> None:
    with capture_logs() as logs:
        for detail in ("first", "second"):
            processes.one.raise_alert(REFUSED, HOST, detail)
            processes.clock.advance(10)
        processes.one.resolve_alert(REFUSED, HOST)
        processes.one.resolve_alert(REFUSED, HOST)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("alert_raised", "error"),
        ("alert_resolved", "info"),
    ]
    assert (logs[0]["alert"], logs[0]["subject"], logs[0]["detail"]) == ("push_token_refused", HOST, "first")
    assert logs[1]["after_seconds"] == 20.0


async def test_another_process_knows_an_alert_and_can_end_it(processes: Processes) -> None:
    processes.one.raise_alert(REFUSED, HOST, "refused")
    await processes.merge(processes.one, processes.two)
    assert processes.known(processes.two) == [("push_token_refused", "refused")]
    processes.clock.advance(5)
    processes.two.resolve_alert(REFUSED, HOST)
    await processes.merge(processes.two, processes.one)
    assert processes.known(processes.one) == processes.known(processes.two) == []


async def test_an_alert_outlives_the_process_that_raised_it(processes: Processes) -> None:
    processes.one.raise_alert(REFUSED, HOST, "refused")
    await processes.merge(processes.one)
    began = processes.clock.now()
    processes.clock.advance(timedelta(days=3).total_seconds())
    started_later = AlertRegistry(processes.clock)
    await processes.merge(started_later)
    [alert] = started_later.list_active()
    assert (alert.detail, alert.since) == ("refused", began)


async def test_what_is_raised_again_after_another_process_ended_it_is_kept(processes: Processes) -> None:
    processes.one.raise_alert(REFUSED, HOST, "before")
    await processes.merge(processes.one, processes.two)
    processes.clock.advance(1)
    processes.two.resolve_alert(REFUSED, HOST)
    processes.clock.advance(1)
    processes.one.raise_alert(REFUSED, HOST, "again")
    await processes.merge(processes.one, processes.two, processes.one)
    assert processes.known(processes.one) == processes.known(processes.two) == [("push_token_refused", "again")]


async def test_an_alert_with_a_duration_ends_by_itself(processes: Processes) -> None:
    processes.one.raise_alert(REFUSED, HOST, "refused", lasts=timedelta(days=1))
    await processes.merge(processes.one, processes.two)
    processes.clock.advance(timedelta(days=1).total_seconds())
    assert processes.known(processes.one) == processes.known(processes.two) == []
    await processes.merge(processes.one)
    async with processes.store.read_snapshot() as tx:
        assert await processes.store.alerts.list_all(tx) == []


async def test_a_failed_transaction_loses_nothing(processes: Processes) -> None:
    processes.one.raise_alert(REFUSED, HOST, "refused")

    async def merge_and_fail() -> None:
        async with processes.store.transaction() as tx:
            await processes.one.merge(processes.store, tx)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await merge_and_fail()
    await processes.merge(processes.one, processes.two)
    assert processes.known(processes.two) == [("push_token_refused", "refused")]


def test_the_number_of_alerts_is_bounded(processes: Processes) -> None:
    with capture_logs():
        for number in range(MAX_ALERTS + 10):
            processes.one.raise_alert(REFUSED, f"https://{number}.example", "refused")
    assert len(processes.one.list_active()) == MAX_ALERTS
