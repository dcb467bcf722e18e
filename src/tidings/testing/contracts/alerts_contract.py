"""Suite for `ports.alerts.Alerts`: operator alerts of all processes."""

from datetime import timedelta

from msgspec import structs

from tidings.model.alert import Alert, AlertName
from tidings.ports.store import Store
from tidings.testing.contracts.samples import NOW

LATER = NOW + timedelta(minutes=1)
REFUSED = Alert(AlertName.PUSH_TOKEN_REFUSED, "https://push.example", "it refuses the token", NOW, NOW)
CLOCK = Alert(
    AlertName.CLOCK_OFF, "host-1, https://push.example", "25 h ahead", LATER, LATER, LATER + timedelta(days=1)
)


class AlertsContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_alerts_read_back_the_oldest_first(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.alerts.save(tx, [CLOCK, REFUSED])
            assert await store.alerts.list_all(tx) == [REFUSED, CLOCK]

    async def test_an_alert_that_is_saved_again_keeps_its_beginning(self, store: Store) -> None:
        again = structs.replace(REFUSED, detail="still", since=LATER, seen_at=LATER)
        async with store.transaction() as tx:
            await store.alerts.save(tx, [REFUSED])
            await store.alerts.save(tx, [again])
            assert await store.alerts.list_all(tx) == [structs.replace(again, since=NOW)]

    async def test_a_resolved_alert_is_deleted_unless_it_was_observed_again(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.alerts.save(tx, [REFUSED, CLOCK])
            await store.alerts.delete(tx, {REFUSED.key: NOW, CLOCK.key: NOW})
            assert await store.alerts.list_all(tx) == [CLOCK]
            await store.alerts.delete(tx, {CLOCK.key: LATER})
            assert await store.alerts.list_all(tx) == []
