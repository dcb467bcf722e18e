"""Makes the runs of recurring notifications.

    schedule   one transaction advances the time of a recurring notification by compare-and-set and stores its runs
    claim      a run is hidden from other workers for `HIDDEN_FOR`
    resolve    its source is asked for variables; no transaction is open
    accept     one transaction accepts the notification and finishes the run by compare-and-set

A worker that is killed leaves a run that is claimed again; one that stops releases its runs. Whoever finishes a run
first has accepted its notification; the transaction of everyone else is rolled back.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias
from zoneinfo import ZoneInfo

import structlog

from tidings.errors import BackendError, ValidationFailed
from tidings.flow.recurring.occurrences import Occurrence, find_next_run, find_version, list_due
from tidings.flow.recurring.variables import VariableResolver
from tidings.localization.wall_clock import list_zones, lookup_zone
from tidings.model.alert import AlertName
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.recurring import (
    NothingToSend,
    RecurringNotification,
    RecurringRun,
    ResolvedVariables,
    RunState,
    SourceFailed,
    SourceRequest,
)
from tidings.model.request import NotifyRequest
from tidings.ports.alerts import AlertSink
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction
from tidings.ports.transaction import retry_on_conflict
from tidings.schemas.recurring import build_run_request, limit_to_zones

log = structlog.get_logger(__name__)

#: a run that a killed worker was making is claimed again after this time. An endpoint may take a minute, a function of
#: a pack half of one. `MIN_CATCH_UP_SECONDS` is longer, so that a killed worker does not cost a run
HIDDEN_FOR = timedelta(seconds=75)
#: recurring notifications scheduled, and runs made together
MAX_TOGETHER = 10
#: wait after the first failed attempt; doubled after each further one
FIRST_RETRY, MAX_RETRY = timedelta(seconds=30), timedelta(hours=1)
#: largest random addition to a wait, as a share of it
JITTER_SHARE = 0.25
ALERT_LASTS = timedelta(days=1)
#: failed attempts that raise an alert about a run that is still tried again
ALERT_AFTER_ATTEMPTS = 3
#: the next attempt, at most an hour and a quarter later, raises the alert again. Of a run that was deleted nothing does
FAILING_ALERT_LASTS = 2 * MAX_RETRY
_UTC = ZoneInfo("UTC")
#: the states that raise an alert, in its words
_LOST = {RunState.FAILED: "failed", RunState.MISSED: "was missed"}
_EMPTY_CODE = "empty_audience"

#: accepts a notification in a transaction; raises ValidationFailed
Accept: TypeAlias = Callable[[Transaction, NotifyRequest], Awaitable[Notification]]
#: called after a run ended
OnFinished: TypeAlias = Callable[[RunState], None]


class RecurringRunner:
    """Schedules and makes due runs. Several workers may run one each."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        accept: Accept,
        resolver: VariableResolver,
        alerts: AlertSink,
        *,
        default_timezone: str,
        on_finished: OnFinished = lambda _state: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """default_timezone: of users who have set none."""
        self._store = store
        self._clock = clock
        self._accept = accept
        self._resolver = resolver
        self._alerts = alerts
        self._default_zone = lookup_zone(default_timezone) or _UTC
        self._on_finished = on_finished
        self._jitter = jitter

    async def run_due(self) -> int:
        """Schedule what is due, and make due runs. Returns how many of both. Raises BackendError."""
        now = self._clock.now()
        async with self._store.read_once() as tx:
            if not await self._store.recurring.has_due(tx, now):
                return 0
        async with self._store.read_snapshot() as tx:
            due = await self._store.recurring.list_due(tx, now, MAX_TOGETHER)
        scheduled = [await self._schedule(recurring, now) for recurring in due]
        async with self._store.transaction() as tx:
            runs = await self._store.recurring.claim_runs(tx, now, hidden_until=now + HIDDEN_FOR, limit=MAX_TOGETHER)
        # each is completed: a failure of the database for one run must not leave others unrecorded
        results = await asyncio.gather(*map(self._make, runs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return sum(scheduled) + len(runs)

    async def find_next_run(self, recurring: RecurringNotification, now: datetime) -> datetime:
        """Return the next occurrence after now. On users' own clocks: in any time zone that there is."""
        if recurring.timezone is not None:
            return find_next_run(recurring, now, [lookup_zone(recurring.timezone) or self._default_zone])
        # reads the data of six hundred zones at the first call
        return await asyncio.to_thread(lambda: find_next_run(recurring, now, list_zones()))

    # schedule -------------------------------------------------------------------------------------------------------

    async def _schedule(self, recurring: RecurringNotification, now: datetime) -> bool:
        """Store the runs of the occurrences that are due. Returns whether this process did so."""
        # half a second for six hundred zones, which must not delay the sends of this process
        occurrences = await asyncio.to_thread(list_due, recurring, now, await self._load_zones(recurring))
        next_run_at = await self.find_next_run(recurring, now)
        runs = [_build_run(recurring, occurrence, now) for occurrence in occurrences]
        async with self._store.transaction() as tx:
            if not await self._store.recurring.advance(tx, recurring, next_run_at):
                return False
            await self._store.recurring.add_runs(tx, runs)
        for run in runs:
            if run.state is RunState.MISSED:
                self._report(run, run.state, run.reason)
        return True

    async def _load_zones(self, recurring: RecurringNotification) -> Mapping[str, ZoneInfo]:
        """Return the stored names of the time zones in which it is due, with their zones."""
        if recurring.timezone is not None:
            return {recurring.timezone: lookup_zone(recurring.timezone) or self._default_zone}
        async with self._store.read_snapshot() as tx:
            stored = await self._store.user_schedules.list_timezones(tx)
        return {name: lookup_zone(name) or self._default_zone for name in stored}

    # make -----------------------------------------------------------------------------------------------------------

    async def _make(self, run: RecurringRun) -> None:
        try:
            await self._attempt(run)
        except asyncio.CancelledError:
            await self._release(run)
            raise

    async def _release(self, run: RecurringRun) -> None:
        """Let another worker claim a run at once, because this one stops."""
        try:
            async with self._store.transaction() as tx:
                await self._store.recurring.defer_run(tx, run, self._clock.now(), run.reason)
        except BackendError as error:
            log.warning("recurring_run_not_released", recurring=run.name, run=run.id, error=str(error))

    async def _attempt(self, run: RecurringRun) -> None:
        async with self._store.read_once() as tx:
            recurring = await self._store.recurring.get(tx, run.name)
        if recurring is None:  # deleted with its runs
            return
        if self._clock.now() >= run.deadline:
            # this claim counts as an attempt
            if run.attempts == 1:
                await self._finish(run, RunState.MISSED, "no worker made it within its catch-up")
            else:
                await self._finish(run, RunState.FAILED, run.reason or "each worker that made it was stopped")
            return
        match await self._resolver.resolve(recurring, _build_source_request(recurring, run)):
            case NothingToSend():
                await self._finish(run, RunState.EMPTY, "its source had nothing to send")
            case SourceFailed(why):
                await self._retry(run, why)
            case ResolvedVariables(variables):
                await self._accept_run(recurring, run, variables)

    async def _accept_run(
        self, recurring: RecurringNotification, run: RecurringRun, variables: Mapping[str, object]
    ) -> None:
        try:
            request = self._build_request(recurring, run, variables)
            notification = await retry_on_conflict(partial(self._try_accept, run, request))
        except _NotPending:
            log.info("recurring_run_ended_elsewhere", recurring=run.name, run=run.id)
        except ValidationFailed as error:
            if error.code == _EMPTY_CODE:
                await self._finish(run, RunState.EMPTY, "nobody was in its audience")
            else:
                await self._retry(run, error.message)
        else:
            self._report(run, RunState.ACCEPTED, None, notification_id=notification.id)

    def _build_request(
        self, recurring: RecurringNotification, run: RecurringRun, variables: Mapping[str, object]
    ) -> NotifyRequest:
        """Return the request of a run. Raises ValidationFailed."""
        audience, version = recurring.audience, None
        if run.timezones is not None:
            audience = limit_to_zones(audience, run.timezones)
            version = find_version(recurring, run.scheduled_at, lookup_zone(run.timezones[0]) or self._default_zone)
        return build_run_request(recurring, audience, variables, self._clock.now(), version)

    async def _try_accept(self, run: RecurringRun, request: NotifyRequest) -> Notification:
        """Accept a notification and finish its run, or neither.

        Raises ValidationFailed, with code `empty_audience` if nobody is in the audience.
        """
        async with self._store.transaction() as tx:
            notification = await self._accept(tx, request)
            first = await self._store.audiences.page(
                tx, notification.audience, category=notification.category, after=None, limit=1
            )
            if not first:
                raise ValidationFailed("the audience has no users now", code=_EMPTY_CODE)
            now = self._clock.now()
            if not await self._store.recurring.finish_run(
                tx, run, RunState.ACCEPTED, now, notification_id=notification.id
            ):
                raise _NotPending
        return notification

    async def _retry(self, run: RecurringRun, why: str) -> None:
        """Try a run again later, or end it if that would be too late."""
        due_at = self._clock.now() + _find_delay(run.attempts, self._jitter())
        if due_at >= run.deadline:
            await self._finish(run, RunState.FAILED, why)
            return
        async with self._store.transaction() as tx:
            await self._store.recurring.defer_run(tx, run, due_at, why)
        log.warning("recurring_run_deferred", recurring=run.name, run=run.id, attempt=run.attempts, why=why)
        if run.attempts >= ALERT_AFTER_ATTEMPTS:
            self._alerts.raise_alert(
                AlertName.RECURRING_RUN_FAILING,
                _name_run(run),
                f"{run.attempts} attempts failed, the last with: {why}; the next is at "
                f"{due_at.isoformat(timespec='seconds')}, none after {run.deadline.isoformat(timespec='minutes')}",
                lasts=FAILING_ALERT_LASTS,
            )

    async def _finish(self, run: RecurringRun, state: RunState, reason: str) -> None:
        async with self._store.transaction() as tx:
            is_finished = await self._store.recurring.finish_run(tx, run, state, self._clock.now(), reason=reason)
        if is_finished:
            self._report(run, state, reason)

    def _report(self, run: RecurringRun, state: RunState, reason: str | None, **fields: object) -> None:
        """Count and log a run that ended. One that was not made raises an alert."""
        self._on_finished(state)
        log.info("recurring_run_ended", recurring=run.name, run=run.id, state=state.value, why=reason, **fields)
        self._alerts.resolve_alert(AlertName.RECURRING_RUN_FAILING, _name_run(run))
        if state in _LOST:
            self._alerts.raise_alert(
                AlertName.RECURRING_RUN_LOST,
                _name_run(run),
                f"the run {_LOST[state]}: {reason}; correct the cause, then make up for it with "
                f"tidings recurring run {run.name} --repeat {run.id}",
                lasts=ALERT_LASTS,
            )
        else:
            self._alerts.resolve_alert(AlertName.RECURRING_RUN_LOST, _name_run(run))


class _NotPending(Exception):
    """Rolls the transaction back: another worker ended the run, or it was cancelled or deleted."""


def _build_run(recurring: RecurringNotification, occurrence: Occurrence, now: datetime) -> RecurringRun:
    is_missed = now >= occurrence.deadline
    return RecurringRun(
        id=new_id(now),
        name=recurring.name,
        scheduled_at=occurrence.at,
        deadline=occurrence.deadline,
        timezones=None if recurring.timezone is not None else occurrence.timezones,
        state=RunState.MISSED if is_missed else RunState.PENDING,
        due_at=now,
        reason="no worker ran within its catch-up" if is_missed else None,
        finished_at=now if is_missed else None,
    )


def _name_run(run: RecurringRun) -> str:
    """Return the subject of the alerts about a run: those of other zones have other times, or other local times."""
    return f"{run.name} {run.scheduled_at.isoformat(timespec='minutes')} {run.id}"


def _build_source_request(recurring: RecurringNotification, run: RecurringRun) -> SourceRequest:
    return SourceRequest(run.name, recurring.template_code, run.id, run.scheduled_at, run.timezones)


def _find_delay(attempt: int, jitter: float) -> timedelta:
    """Return the wait after a failed attempt. attempt: 1 = first; jitter: random, 0 ≤ jitter < 1."""
    # two to the power of a large number would overflow
    delay: timedelta = min(FIRST_RETRY * 2 ** min(attempt - 1, 16), MAX_RETRY)
    return delay * (1 + JITTER_SHARE * jitter)
