"""Recurring notifications and their runs, and the endpoints that are asked for variables."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.recurring import RecurringNotification, RecurringRun, RunState, SourceRequest, SourceResult
from tidings.ports.transaction import Transaction


class RecurringNotifications(Protocol):
    """Stores recurring notifications under their names, and their runs."""

    async def put(self, tx: Transaction, recurring: RecurringNotification, now: datetime) -> bool:
        """Create or replace a recurring notification, also its next time and whether it is paused.

        Returns whether it is new.
        """
        ...

    async def get(self, tx: Transaction, name: str, *, lock: bool = False) -> RecurringNotification | None:
        """Return a recurring notification. lock: keep other transactions from changing it."""
        ...

    async def page(self, tx: Transaction, *, after: str | None, limit: int) -> Sequence[RecurringNotification]:
        """Return recurring notifications in the order of their names. after: the last name of the previous page."""
        ...

    async def delete(self, tx: Transaction, name: str) -> bool:
        """Delete a recurring notification with its runs. Returns whether there was one."""
        ...

    async def has_due(self, tx: Transaction, now: datetime) -> bool:
        """Return whether a time has come, or a run is due, in one query."""
        ...

    async def list_due(self, tx: Transaction, now: datetime, limit: int) -> Sequence[RecurringNotification]:
        """Return the recurring notifications whose time has come, the earliest first."""
        ...

    async def advance(self, tx: Transaction, recurring: RecurringNotification, next_run_at: datetime) -> bool:
        """Compare-and-set the next time. Returns False if it was advanced, changed or paused since it was read."""
        ...

    async def add_runs(self, tx: Transaction, runs: Sequence[RecurringRun]) -> None: ...

    async def claim_runs(
        self, tx: Transaction, now: datetime, *, hidden_until: datetime, limit: int
    ) -> Sequence[RecurringRun]:
        """Return the runs that are due, the earliest first, and count an attempt of each.

        No other worker claims them before `hidden_until`.
        """
        ...

    async def finish_run(
        self,
        tx: Transaction,
        run: RecurringRun,
        state: RunState,
        now: datetime,
        *,
        notification_id: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Compare-and-set the final state of a claimed run.

        Returns False if it has one, if another worker has claimed it since, or if it was deleted.
        """
        ...

    async def defer_run(self, tx: Transaction, run: RecurringRun, due_at: datetime, reason: str | None) -> bool:
        """Set when a claimed run is tried again, and why the last attempt failed. Returns as `finish_run`."""
        ...

    async def repeat_run(self, tx: Transaction, run: RecurringRun, deadline: datetime, now: datetime) -> bool:
        """Make a run that was not made pending and due again, without attempts.

        Returns False if it is pending, accepted or empty, or was deleted.
        """
        ...

    async def cancel_runs(self, tx: Transaction, name: str, reason: str, now: datetime) -> int:
        """Cancel the pending runs of a recurring notification. Returns how many."""
        ...

    async def get_run(self, tx: Transaction, name: str, run_id: str) -> RecurringRun | None: ...

    async def list_runs(self, tx: Transaction, name: str, *, before: str | None, limit: int) -> Sequence[RecurringRun]:
        """Return the runs of a recurring notification, newest first. before: the last id of the previous page."""
        ...

    async def list_pending_runs(self, tx: Transaction, *, limit: int) -> Sequence[RecurringRun]:
        """Return the runs of all recurring notifications that are pending, those with the next attempts first."""
        ...

    async def find_last_runs(self, tx: Transaction, names: Collection[str]) -> Mapping[str, RecurringRun]:
        """Return the newest run of each recurring notification that has one, by its name."""
        ...

    async def purge_runs(self, tx: Transaction, finished_before: datetime) -> int:
        """Delete runs that ended before an instant. Returns how many."""
        ...


class VariablesEndpoints(Protocol):
    """Asks endpoints of the host product for the variables of a run."""

    def check_url(self, url: str, field: str) -> None:
        """Raise ValidationFailed for `field` if the URL may not be called, or nothing can sign the calls."""
        ...

    async def fetch(self, url: str, request: SourceRequest) -> SourceResult:
        """Return what an endpoint answered. Does not raise for its failures."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
