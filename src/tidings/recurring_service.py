"""Recurring notifications over HTTP and on the command line: checked, stored, paused, resumed and run."""

from dataclasses import replace
from datetime import datetime

from tidings.audience_service import AudienceService
from tidings.errors import FieldError, NotFound, ValidationFailed
from tidings.flow.accept.validation import build_notification
from tidings.flow.catalog import Catalog
from tidings.flow.recurring.runner import RecurringRunner
from tidings.model.audience import AUDIENCE_NAME, everyone
from tidings.model.ids import new_id
from tidings.model.recurring import MANUAL_CATCH_UP, RecurringNotification, RecurringRun
from tidings.ports.clock import Clock
from tidings.ports.recurring import VariablesEndpoints
from tidings.ports.renderer import Renderer
from tidings.ports.store import Store, Transaction
from tidings.schemas.recurring import build_run_request

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
    ) -> None:
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._renderer = renderer
        self._audiences = audiences
        self._endpoints = endpoints
        self._runner = runner

    async def get(self, tx: Transaction, name: str, *, lock: bool = False) -> RecurringNotification:
        """Return a recurring notification. Raises NotFound."""
        found = await self._store.recurring.get(tx, name, lock=lock)
        if found is None:
            raise _not_found(name)
        return found

    async def put(self, tx: Transaction, recurring: RecurringNotification) -> tuple[RecurringNotification, bool]:
        """Create or replace a recurring notification. Returns it, and whether it is new.

        One that is paused stays paused. One whose times are the same is due as before. Raises ValidationFailed naming
        the field.
        """
        if not AUDIENCE_NAME.fullmatch(recurring.name):
            raise ValidationFailed.for_field(
                "name", "must be 1 to 64 letters, digits or . _ - and begin with a letter or digit"
            )
        now = self._clock.now()
        await self._check(tx, recurring, now)
        before = await self._store.recurring.get(tx, recurring.name, lock=True)
        recurring = replace(recurring, is_paused=before is not None and before.is_paused)
        next_run_at = None
        if before is not None and (before.at, before.timezone) == (recurring.at, recurring.timezone):
            next_run_at = before.next_run_at
        elif not recurring.is_paused:
            next_run_at = await self._runner.find_next_run(recurring, now)
        is_new = await self._store.recurring.put(tx, replace(recurring, next_run_at=next_run_at), now)
        return await self.get(tx, recurring.name), is_new

    async def delete(self, tx: Transaction, name: str) -> None:
        """Delete a recurring notification with its runs. Accepted notifications are sent all the same.

        Raises NotFound.
        """
        if not await self._store.recurring.delete(tx, name):
            raise _not_found(name)

    async def pause(self, tx: Transaction, name: str) -> RecurringNotification:
        """Stop a recurring notification until it is resumed, and cancel its pending runs. Raises NotFound."""
        recurring, now = await self.get(tx, name, lock=True), self._clock.now()
        await self._store.recurring.cancel_runs(tx, name, "it was paused", now)
        await self._store.recurring.put(tx, replace(recurring, is_paused=True, next_run_at=None), now)
        return await self.get(tx, name)

    async def resume(self, tx: Transaction, name: str) -> RecurringNotification:
        """Continue with the next occurrence from now on. What was left out is not made up. Raises NotFound."""
        recurring, now = await self.get(tx, name, lock=True), self._clock.now()
        if recurring.is_paused:
            next_run_at = await self._runner.find_next_run(recurring, now)
            await self._store.recurring.put(tx, replace(recurring, is_paused=False, next_run_at=next_run_at), now)
        return await self.get(tx, name)

    async def start_run(self, tx: Transaction, name: str) -> RecurringRun:
        """Store a run for the whole audience, which a worker makes at once, also of a paused one. Raises NotFound."""
        recurring, now = await self.get(tx, name), self._clock.now()
        deadline = now + (MANUAL_CATCH_UP if recurring.catch_up is None else recurring.catch_up)
        run = RecurringRun(new_id(now), name, now, deadline, is_manual=True, due_at=now)
        await self._store.recurring.add_runs(tx, [run])
        return run

    async def get_run(self, tx: Transaction, name: str, run_id: str) -> RecurringRun:
        """Return a run of a recurring notification. Raises NotFound."""
        run = await self._store.recurring.get_run(tx, name, run_id)
        if run is None:
            raise NotFound(f"No run {run_id!r} of {name!r}. GET /api/recurring/{{name}}/runs lists them.")
        return run

    async def _check(self, tx: Transaction, recurring: RecurringNotification, now: datetime) -> None:
        """Raise ValidationFailed for what a run could not accept now. The audience may have no users yet."""
        await self._audiences.check(tx, recurring.audience)
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


def _may_be_pulled(recurring: RecurringNotification, error: FieldError) -> bool:
    """Return whether an error is about a variable that the source may return."""
    return recurring.has_source and error.field.startswith(_VARIABLES)


def _not_found(name: str) -> NotFound:
    return NotFound(f"No recurring notification {name!r}. GET /api/recurring lists them.", code="unknown_recurring")
