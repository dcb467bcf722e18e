"""Operator alerts: where the flow and the channels raise them, and where they are stored."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from tidings.model.alert import Alert, AlertName
from tidings.ports.transaction import Transaction


class AlertSink(Protocol):
    """Receives the alerts of this process. Does not block, so that a send can call it."""

    def raise_alert(self, name: AlertName, subject: str, detail: str, *, lasts: timedelta | None = None) -> None:
        """Raise an alert, or update it if it is raised already. It is logged when it begins.

        detail: the cause and the fix, without secrets. lasts: how long it is kept; None = until it is resolved.
        """
        ...

    def resolve_alert(self, name: AlertName, subject: str) -> None:
        """End an alert because its cause is over. Does nothing if it is not raised."""
        ...


class NoAlerts:
    """An `AlertSink` that drops alerts, for a channel without an operator."""

    def raise_alert(self, name: AlertName, subject: str, detail: str, *, lasts: timedelta | None = None) -> None:
        """Do nothing."""

    def resolve_alert(self, name: AlertName, subject: str) -> None:
        """Do nothing."""


class Alerts(Protocol):
    """The alerts of all processes that share this database."""

    async def list_all(self, tx: Transaction) -> Sequence[Alert]:
        """Return every stored alert, the oldest first."""
        ...

    async def save(self, tx: Transaction, alerts: Collection[Alert]) -> None:
        """Insert alerts, or update detail and times of those that are stored. Their `since` is kept."""
        ...

    async def delete(self, tx: Transaction, resolved: Mapping[tuple[AlertName, str], datetime]) -> None:
        """Delete alerts by name and subject, unless their cause was observed after the given instant."""
        ...
