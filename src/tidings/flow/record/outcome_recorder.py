"""Records the outcomes of sends: the deliveries, and what follows for steps, devices, contact points and users."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

import structlog

from tidings.errors import ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.flow.record.contact_health import build_notice, derive_contact_results
from tidings.flow.record.retry_policy import apply_retry_policy, retry_renewed_target
from tidings.flow.record.soft_refusals import SoftRefusalRecorder
from tidings.flow.record.target_health import derive_target_changes
from tidings.flow.record.unanswered_messages import UnansweredMessages
from tidings.model.alert import AlertName
from tidings.model.delivery import AttemptResult, HoldRecord
from tidings.model.notification import Notification
from tidings.model.outcome import InvalidTarget, RetryLater
from tidings.model.request import NotifyRequest
from tidings.model.subscription import MAX_TARGET_REFUSALS
from tidings.ports.alerts import AlertSink
from tidings.ports.clock import Clock
from tidings.ports.steps import DeliveredWhenSent
from tidings.ports.store import Store, Transaction

log = structlog.get_logger(__name__)

#: how long the alert about suspended devices is kept; it is renewed by each further one
SUSPENSION_ALERT_LASTS = timedelta(days=1)
#: accepts notifications to the owners of contact points that were disabled
AcceptNotices: TypeAlias = Callable[
    [Transaction, Sequence[NotifyRequest]], Awaitable[Sequence[Notification | ValidationFailed]]
]


class OutcomeRecorder:
    """Writes lists of outcomes, each in one transaction. One per process."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        alerts: AlertSink,
        *,
        unanswered: UnansweredMessages,
        soft_refusals: SoftRefusalRecorder,
        is_delivered_when_sent: DeliveredWhenSent,
        accept_notices: AcceptNotices,
        on_recorded: Callable[[Sequence[AttemptResult]], None],
    ) -> None:
        """on_recorded: called after a commit."""
        self._store = store
        self._catalog = catalog
        self._clock = clock
        self._alerts = alerts
        self._unanswered = unanswered
        self._soft_refusals = soft_refusals
        self._is_delivered_when_sent = is_delivered_when_sent
        self._accept_notices = accept_notices
        self._on_recorded = on_recorded

    async def record(self, attempts: Sequence[AttemptResult]) -> None:
        """Record outcomes in one transaction. Raises BackendError, with nothing written, if the database fails."""
        now = self._clock.now()
        ended = {
            attempt.target_id
            for attempt in attempts
            if isinstance(attempt.outcome, InvalidTarget) and attempt.target_id is not None
        }
        max_attempts = {
            channel: self._catalog.get_traits(channel).max_attempts
            for channel in {attempt.channel for attempt in attempts}
        }
        async with self._store.transaction() as tx:
            # locked, so that a browser that registers now waits, and renews the row after its outcome
            versions = await self._store.subscriptions.lock_versions(tx, ended) if ended else {}
            rows = [
                apply_retry_policy(retry_renewed_target(attempt, versions), max_attempts[attempt.channel])
                for attempt in attempts
            ]
            applied = await self._store.deliveries.record(tx, rows, now)
            await self._record_steps(tx, rows, now)
            await self._unanswered.record(tx, rows, now)
            await self._soft_refusals.record(tx, rows, now)
            suspended = await self._store.subscriptions.record_results(tx, derive_target_changes(rows), now)
            # the attempts as they were made: the retry policy turns the last one into a final state
            await self._record_contact_results(tx, attempts, now)
        if applied < len(rows):
            # the lease had expired, so another worker may have sent them too; or the user was erased in the meantime
            log.warning("outcomes_rejected_stale_lease", count=len(rows) - applied)
        for host, reason in suspended:
            log.warning("device_suspended", push_host=host, reason=reason)
            self._alerts.raise_alert(
                AlertName.PUSH_DEVICES_SUSPENDED,
                host,
                f"devices were suspended after {MAX_TARGET_REFUSALS} refusals in a row: {reason}",
                lasts=SUSPENSION_ALERT_LASTS,
            )
        self._on_recorded(rows)

    async def _record_steps(self, tx: Transaction, rows: Sequence[AttemptResult], now: datetime) -> None:
        """Start the clocks of later steps whose step before was handed over, or ended without."""
        pairs = {
            (row.notification_id, row.user_id)
            for row in rows
            if row.has_steps and not isinstance(row.outcome, RetryLater | HoldRecord)
        }
        if pairs:
            await self._store.steps.record_outcomes(tx, pairs, now, is_delivered_when_sent=self._is_delivered_when_sent)

    async def _record_contact_results(self, tx: Transaction, attempts: Sequence[AttemptResult], now: datetime) -> None:
        """Disable contact points that refuse or fail for days, and tell their owners over the other channels."""
        results = derive_contact_results(attempts, lambda channel: self._catalog.get_traits(channel).disable_after)
        if not results:
            return
        disabled = await self._store.contact_health.record(tx, results, now)
        for point in disabled:
            log.warning("contact_point_disabled", contact_point_id=point.id, channel=point.channel)
        notices = [build_notice(point, self._catalog, now) for point in disabled]
        for notice in await self._accept_notices(tx, notices) if notices else ():
            if isinstance(notice, ValidationFailed):
                # the pack of the template is not installed, or the user was erased in the meantime
                log.warning("contact_point_notice_rejected", error=notice.message)
