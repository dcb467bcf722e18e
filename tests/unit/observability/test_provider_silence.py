"""An operator is told when messages go out and their provider reports nothing."""

from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import structs

from tidings.config.settings import Role, Settings
from tidings.container import AppContainer
from tidings.flow.record.provider_events import ProviderEventRecorder
from tidings.flow.record.unanswered_messages import NOTE_EVERY, UnansweredMessages
from tidings.model.alert import AlertName
from tidings.model.outcome import Accepted, PermanentFailure
from tidings.model.receipt import ProviderEvent, ReceiptStatus
from tidings.model.suppression import SoftBouncePolicy
from tidings.ports.alerts import NoAlerts
from tidings.testing.clock import FrozenClock
from tidings.testing.contracts.samples import make_attempt_result, make_claimed_delivery, make_notification

ACCEPTED = structs.replace(make_attempt_result(make_claimed_delivery(make_notification()), Accepted()), channel="email")


@pytest.fixture(autouse=True)
def email(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure e-mail with a hook."""
    monkeypatch.setenv("TIDINGS_SMTP_URL", "smtp://127.0.0.1:1")
    monkeypatch.setenv("TIDINGS_EMAIL_FROM", "news@jazz.example")
    monkeypatch.setenv("TIDINGS_EMAIL__HOOK_SECRET", "a secret of the hooks of this test")
    monkeypatch.setenv("TIDINGS_EMAIL__MAX_SILENCE_HOURS", "3")


async def test_c50_a_hook_that_reports_nothing_for_hours_is_noticed_until_the_next_event(
    tmp_path: Path, clock: FrozenClock
) -> None:
    async with AppContainer.open(Settings(data_dir=tmp_path), clock=clock, role=Role.SERVE) as runtime:

        async def list_alerts() -> list[AlertName]:
            await runtime.run_maintenance()
            return [alert.name for alert in runtime.alerts.list_active()]

        assert await list_alerts() == []
        await runtime.pipeline.record([ACCEPTED])
        clock.advance(timedelta(hours=2, minutes=59))
        assert await list_alerts() == []
        clock.advance(timedelta(minutes=2))
        assert await list_alerts() == [AlertName.PROVIDER_SILENT]
        event = ProviderEvent("email", "generic", "e1", clock.now(), ReceiptStatus.DELIVERED)
        recorder = ProviderEventRecorder(runtime.store, clock, NoAlerts(), lambda _event: None)
        assert await recorder.record([event], SoftBouncePolicy()) == 1
        assert await list_alerts() == []


async def test_a_note_costs_a_statement_per_minute(tmp_path: Path, clock: FrozenClock) -> None:
    async with AppContainer.open(Settings(data_dir=tmp_path), clock=clock) as runtime:
        noted = UnansweredMessages(runtime.store.receipts, {"email"})
        refused = structs.replace(ACCEPTED, outcome=PermanentFailure("no"))
        counts = []
        for results, wait in (
            ([refused], NOTE_EVERY),
            ([ACCEPTED], NOTE_EVERY / 2),
            ([ACCEPTED], NOTE_EVERY),
            ([ACCEPTED], NOTE_EVERY),
        ):
            before = runtime.store.statement_count
            async with runtime.store.transaction() as tx:
                await noted.record(tx, results, clock.now())
            counts.append(runtime.store.statement_count - before)
            clock.advance(wait)
        assert counts == [0, 1, 0, 1]
