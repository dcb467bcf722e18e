"""Operator alerts, shared by all processes."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, select

from tidings.model.alert import Alert, AlertName
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import alerts
from tidings.stores.sql.upsert import upsert

_a = alerts.c
_NAMES = frozenset(name.value for name in AlertName)


class SqlAlerts:
    """Implements `ports.alerts.Alerts`."""

    async def list_all(self, tx: Transaction) -> Sequence[Alert]:
        rows = await connection_of(tx).execute(SELECT_ALERTS)
        # during a rolling upgrade, a newer version may store names that this one does not know
        return [
            Alert(AlertName(name), subject, detail, since, seen_at, ends_at)
            for name, subject, detail, since, seen_at, ends_at in rows
            if name in _NAMES
        ]

    async def save(self, tx: Transaction, alerts_to_save: Collection[Alert]) -> None:
        # sorted, so that two processes lock rows in the same order
        rows = [
            {
                "name": alert.name.value,
                "subject": alert.subject,
                "detail": alert.detail,
                "since": alert.since,
                "seen_at": alert.seen_at,
                "ends_at": alert.ends_at,
            }
            for alert in sorted(alerts_to_save, key=lambda alert: alert.key)
        ]
        statement = upsert(tx, alerts)
        await connection_of(tx).execute(
            statement.on_conflict_do_update(
                index_elements=[_a.name, _a.subject],
                set_={name: statement.excluded[name] for name in ("detail", "seen_at", "ends_at")},
            ),
            rows,
        )

    async def delete(self, tx: Transaction, resolved: Mapping[tuple[AlertName, str], datetime]) -> None:
        for (name, subject), resolved_at in sorted(resolved.items()):
            await connection_of(tx).execute(
                delete(alerts).where(_a.name == name.value, _a.subject == subject, _a.seen_at <= resolved_at)
            )


#: the columns of an alert, the oldest alert first
SELECT_ALERTS = select(_a.name, _a.subject, _a.detail, _a.since, _a.seen_at, _a.ends_at).order_by(
    _a.since, _a.name, _a.subject
)
