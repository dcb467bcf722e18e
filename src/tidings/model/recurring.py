"""Recurring notifications: one definition, sent at recurring times, and its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

from tidings.model.audience import Audience

#: a recurring time, see `localization.recurrence`. Each month has the days 1 to 28, and a last one
RECURRING_TIME: Final = r"^((MON|TUE|WED|THU|FRI|SAT|SUN|LAST|[1-9]|1\d|2[0-8]) )?([01]\d|2[0-3]):[0-5]\d$"
#: `source` of the notifications of a recurring notification: this and its name
SOURCE_PREFIX: Final = "recurring:"
#: how long a run that a caller started is retried, unless the definition has a catch-up
MANUAL_CATCH_UP: Final = timedelta(days=1)


class RunState(StrEnum):
    """The states of a run. All but `pending` are final."""

    #: due, being made, or waiting for its next attempt
    PENDING = "pending"
    #: its notification was accepted
    ACCEPTED = "accepted"
    #: the source had nothing to send, or nobody was in the audience
    EMPTY = "empty"
    #: every attempt within the catch-up failed
    FAILED = "failed"
    #: no worker ran within the catch-up
    MISSED = "missed"
    #: it was paused before its notification was accepted
    CANCELLED = "cancelled"


#: states of runs that were not made and may be repeated
REPEATABLE: Final = (RunState.FAILED, RunState.MISSED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class RecurringNotification:
    """What is sent at recurring times. The audience and the variables are resolved when a run is due."""

    name: str
    template_code: str
    #: may mention saved audiences
    audience: Audience
    #: times as in `localization.recurrence`, at least one
    at: tuple[str, ...]
    #: IANA name; None = the time zone of each user
    timezone: str | None
    variables: Mapping[str, object] = field(default_factory=dict)
    #: `options` of the HTTP API, validated
    options: Mapping[str, object] = field(default_factory=dict)
    #: endpoint that is asked for further variables
    variables_url: str | None = None
    #: name of a function of a pack that returns further variables
    variables_function: str | None = None
    #: how late a run may be made; None = until the next one
    catch_up: timedelta | None = None
    description: str = ""
    is_paused: bool = False
    #: the earliest time that was not acted upon; None = paused
    next_run_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def has_source(self) -> bool:
        """Whether variables are pulled at the time of a run."""
        return self.variables_url is not None or self.variables_function is not None


@dataclass(frozen=True, slots=True)
class RecurringRun:
    """One occurrence of a recurring notification, or one run that a caller started."""

    id: str
    #: of the recurring notification
    name: str
    scheduled_at: datetime
    #: it is not made at or after this instant
    deadline: datetime
    #: stored time zones of the users that it is for, see `Users.list_timezones`; None = the whole audience
    timezones: tuple[str, ...] | None = None
    is_manual: bool = False
    state: RunState = RunState.PENDING
    #: attempts that were started
    attempts: int = 0
    #: of the next attempt; in the future while a worker makes one
    due_at: datetime | None = None
    notification_id: str | None = None
    #: why it is empty, failed or missed, or why the last attempt failed
    reason: str | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What a source of variables receives about a run."""

    #: of the recurring notification
    name: str
    template_code: str
    #: the same for every attempt
    run_id: str
    scheduled_at: datetime
    #: IANA names of the time zones in which it is due; None = the whole audience at once
    timezones: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ResolvedVariables:
    """A source returned variables."""

    variables: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NothingToSend:
    """A source has nothing to send this time."""


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """A source returned nothing usable; the run is tried again."""

    why: str


SourceResult: TypeAlias = ResolvedVariables | NothingToSend | SourceFailed
