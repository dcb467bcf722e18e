"""Recurring notifications over HTTP and on the command line: checked, stored, paused, resumed and run."""

from dataclasses import replace
from datetime import datetime, timedelta

from tidings.audience_service import AudienceService
from tidings.errors import Conflict, FieldError, NotFound, ValidationFailed
from tidings.flow.accept.validation import build_notification
from tidings.flow.catalog import Catalog
from tidings.flow.recurring.runner import OnFinished, RecurringRunner
from tidings.model.audience import AUDIENCE_NAME, MAX_DEPTH, MAX_NODES, Audience, everyone
from tidings.model.ids import new_id
from tidings.model.recurring import MANUAL_CATCH_UP, RecurringNotification, RecurringRun, RunState
from tidings.ports.clock import Clock
from tidings.ports.recurring import VariablesEndpoints
from tidings.ports.renderer import Renderer
from tidings.ports.store import Store, Transaction
from tidings.schemas.recurring import USER_ZONE, build_run_request, limit_to_zones

_VARIABLES = "variables."


class RecurringService:
    """Stores recurring notifications under names, and starts runs. One per process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        catalog: Catalog,
        renderer: Renderer,
        audiences: AudienceService,
        endpoints: VariablesEndpoints,
        runner: RecurringRunner,
        *,
        on_finished: OnFinished = lambda _state: None,
    ) -> None:
        """on_finished: called after the commit for each run that was cancelled."""
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._renderer = renderer
        self._audiences = audiences
        self._endpoints = endpoints
        self._runner = runner
        self._on_finished = on_finished

    async def get(self, tx: Transaction, name: str, *, lock: bool = False) -> RecurringNotification:
        """Return a recurring notification. Raises NotFound."""
        found = await self._store.recurring.get(tx, name, lock=lock)
        if found is None:
            raise _not_found(name)
        return found

    async def put(self, recurring: RecurringNotification) -> tuple[RecurringNotification, bool]:
        """Create or replace a recurring notification. Returns it, and whether it is new.

        One that is paused stays paused. One whose times are the same is due as before. Raises ValidationFailed naming
        the field.
        """
        if not AUDIENCE_NAME.fullmatch(recurring.name):
            raise ValidationFailed.for_field(
                "name", "must be 1 to 64 letters, digits or . _ - and begin with a letter or digit"
            )
        now = self._clock.now()
        # takes up to a second over all time zones: not in the transaction, which on SQLite excludes other writers
        next_run_at = await self._runner.find_next_run(recurring, now)
        async with self._store.transaction() as tx:
            await self._check(tx, recurring, now)
            before = await self._store.recurring.get(tx, recurring.name, lock=True)
            if before is not None and (before.is_paused or _has_same_times(before, recurring)):
                recurring = replace(recurring, is_paused=before.is_paused, next_run_at=before.next_run_at)
            else:
                recurring = replace(recurring, next_run_at=next_run_at)
            is_new = await self._store.recurring.put(tx, recurring, now)
            return await self.get(tx, recurring.name), is_new

    async def delete(self, tx: Transaction, name: str) -> None:
        """Delete a recurring notification with its runs. Accepted notifications are sent all the same.

        Raises NotFound.
        """
        if not await self._store.recurring.delete(tx, name):
            raise _not_found(name)

    async def pause(self, name: str) -> RecurringNotification:
        """Stop a recurring notification until it is resumed, and cancel its pending runs. Raises NotFound."""
        async with self._store.transaction() as tx:
            recurring, now = await self.get(tx, name, lock=True), self._clock.now()
            cancelled = await self._store.recurring.cancel_runs(tx, name, "it was paused", now)
            await self._store.recurring.put(tx, replace(recurring, is_paused=True, next_run_at=None), now)
            paused = await self.get(tx, name)
        for _ in range(cancelled):
            self._on_finished(RunState.CANCELLED)
        return paused

    async def resume(self, name: str) -> RecurringNotification:
        """Continue with the next occurrence from now on. What was left out is not made up. Raises NotFound."""
        while True:
            async with self._store.read_snapshot() as tx:
                read = await self.get(tx, name)
            now = self._clock.now()
            next_run_at = await self._runner.find_next_run(read, now)  # not in the transaction, see `put`
            async with self._store.transaction() as tx:
                recurring = await self.get(tx, name, lock=True)
                if not recurring.is_paused:
                    return recurring
                if _has_same_times(recurring, read):
                    resumed = replace(recurring, is_paused=False, next_run_at=next_run_at)
                    await self._store.recurring.put(tx, resumed, now)
                    return await self.get(tx, name)

    async def start_run(self, tx: Transaction, name: str) -> RecurringRun:
        """Store a run for the whole audience, which a worker makes at once, also of a paused one. Raises NotFound."""
        recurring, now = await self.get(tx, name), self._clock.now()
        run = RecurringRun(new_id(now), name, now, now + _find_catch_up(recurring), is_manual=True, due_at=now)
        await self._store.recurring.add_runs(tx, [run])
        return run

    async def repeat_run(self, tx: Transaction, name: str, run_id: str) -> RecurringRun:
        """Make a run that failed, was missed or was cancelled again, for the same users.

        Its attempts begin anew, and its deadline is that of a run that is started now. Raises NotFound, and Conflict if
        the run is pending or was made.
        """
        recurring, run, now = await self.get(tx, name), await self.get_run(tx, name, run_id), self._clock.now()
        if not await self._store.recurring.repeat_run(tx, run, now + _find_catch_up(recurring), now):
            raise Conflict(
                f"The run is {run.state.value}. Only one that failed, was missed or was cancelled is repeated."
            )
        return await self.get_run(tx, name, run_id)

    async def get_run(self, tx: Transaction, name: str, run_id: str) -> RecurringRun:
        """Return a run of a recurring notification. Raises NotFound."""
        run = await self._store.recurring.get_run(tx, name, run_id)
        if run is None:
            raise NotFound(f"No run {run_id!r} of {name!r}. GET /api/recurring/{{name}}/runs lists them.")
        return run

    async def _check(self, tx: Transaction, recurring: RecurringNotification, now: datetime) -> None:
        """Raise ValidationFailed for what a run could not accept now. The audience may have no users yet."""
        await self._audiences.check(tx, recurring.audience)
        if recurring.timezone is None:
            await self._check_with_zones(tx, recurring.audience)
        if recurring.variables_url is not None:
            self._endpoints.check_url(recurring.variables_url, "variablesUrl")
        if recurring.variables_function is not None:
            self._catalog.check_variables_function(recurring.variables_function, "variablesFunction")
        request = build_run_request(recurring, everyone(), recurring.variables, now)
        try:
            build_notification(request, self._catalog, self._renderer, notification_id=new_id(now), now=now)
        except ValidationFailed as error:
            if errors := [one for one in error.field_errors if not _may_be_pulled(recurring, one)]:
                raise ValidationFailed.from_errors(errors, code=error.code) from error

    async def _check_with_zones(self, tx: Transaction, audience: Audience) -> None:
        """Raise ValidationFailed if an audience, which is valid, is too large for the runs of some time zones."""
        try:
            await self._audiences.check(tx, limit_to_zones(audience, ["UTC"]))
        except ValidationFailed as error:
            raise ValidationFailed.for_field(
                "audience",
                f"is too large for the time zone {USER_ZONE}, which adds a level and two parts: at most "
                f"{MAX_DEPTH - 1} levels and {MAX_NODES - 2} parts",
            ) from error


def _has_same_times(one: RecurringNotification, other: RecurringNotification) -> bool:
    return (one.at, one.timezone) == (other.at, other.timezone)


def _find_catch_up(recurring: RecurringNotification) -> timedelta:
    """Return how long a run that a caller starts is retried."""
    return MANUAL_CATCH_UP if recurring.catch_up is None else recurring.catch_up


def _may_be_pulled(recurring: RecurringNotification, error: FieldError) -> bool:
    """Return whether an error is about a variable that the source may return."""
    return recurring.has_source and error.field.startswith(_VARIABLES)


def _not_found(name: str) -> NotFound:
    return NotFound(f"No recurring notification {name!r}. GET /api/recurring lists them.", code="unknown_recurring")
