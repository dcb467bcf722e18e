"""The registry of operator alerts of a process, shared with the other processes through the database.

A process writes its alerts with its heartbeats and reads those of all others. So a worker that starts later knows an
alert of a worker that was killed, and any process that observes the end of its cause ends it for all.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from tidings.model.alert import Alert, AlertName
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction

log = structlog.get_logger(__name__)

#: alerts kept; subjects may contain host names, whose number is unbounded because of wildcard hosts
MAX_ALERTS = 100
#: maximum length of a stored subject and detail, in characters
MAX_SUBJECT_LENGTH, MAX_DETAIL_LENGTH = 300, 1000


class AlertRegistry:
    """Implements `ports.alerts.AlertSink`. Not thread-safe: one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._active: dict[tuple[AlertName, str], Alert] = {}
        #: alerts of this process that are not written yet
        self._unwritten: set[tuple[AlertName, str]] = set()
        #: resolved by this process and not deleted yet, with the time
        self._resolved: dict[tuple[AlertName, str], datetime] = {}

    def raise_alert(self, name: AlertName, subject: str, detail: str, *, lasts: timedelta | None = None) -> None:
        """Raise an alert, or update it; see `ports.alerts.AlertSink`."""
        now = self._clock.now()
        key = (name, subject[:MAX_SUBJECT_LENGTH])
        raised = self._active.get(key)
        if raised is None:
            if len(self._active) >= MAX_ALERTS:
                return
            log.error("alert_raised", alert=name.value, subject=subject, detail=detail)
        self._active[key] = Alert(
            name,
            key[1],
            detail[:MAX_DETAIL_LENGTH],
            now if raised is None else raised.since,
            now,
            None if lasts is None else now + lasts,
        )
        self._unwritten.add(key)
        self._resolved.pop(key, None)

    def resolve_alert(self, name: AlertName, subject: str) -> None:
        """End an alert; see `ports.alerts.AlertSink`."""
        if not self._active:
            return
        key = (name, subject[:MAX_SUBJECT_LENGTH])
        raised = self._active.pop(key, None)
        if raised is None:
            return
        now = self._clock.now()
        self._unwritten.discard(key)
        self._resolved[key] = max(now, raised.seen_at)
        seconds = round((now - raised.since).total_seconds(), 1)
        log.info("alert_resolved", alert=name.value, subject=subject, after_seconds=seconds)

    def list_active(self) -> Sequence[Alert]:
        """Return the alerts that are raised, of all processes as far as they are known here, the oldest first."""
        return sorted(_without_ended(self._active.values(), self._clock.now()), key=lambda alert: alert.since)

    async def merge(self, store: Store, tx: Transaction) -> None:
        """Write the changes of this process to the database, and read the alerts of the others.

        If the transaction fails, the changes are written by the next call.
        """
        written = {key: self._active[key] for key in self._unwritten}
        resolved = dict(self._resolved)
        if written:
            await store.alerts.save(tx, written.values())
        if resolved:
            await store.alerts.delete(tx, resolved)
        stored = await store.alerts.list_all(tx)
        now = self._clock.now()
        if ended := {alert.key: now for alert in stored if _is_ended(alert, now)}:
            await store.alerts.delete(tx, ended)

        async def adopt_stored() -> None:
            # changes made since then stay unwritten
            self._unwritten = {key for key in self._unwritten if self._active[key] is not written.get(key)}
            self._resolved = {key: at for key, at in self._resolved.items() if resolved.get(key) is not at}
            own = {key: self._active[key] for key in self._unwritten}
            others = {alert.key: alert for alert in _without_ended(stored, now) if alert.key not in self._resolved}
            self._active = others | own

        tx.on_commit(adopt_stored)


def _is_ended(alert: Alert, now: datetime) -> bool:
    return alert.ends_at is not None and alert.ends_at <= now


def _without_ended(alerts: Iterable[Alert], now: datetime) -> list[Alert]:
    return [alert for alert in alerts if not _is_ended(alert, now)]
