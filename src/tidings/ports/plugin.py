"""The parts that a channel and a pack declare in the same way: background tasks and checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings.config.settings import Settings
    from tidings.ports.store import Store


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What a check of `tidings doctor` may use. It must create and change nothing."""

    settings: Settings
    #: None = there is no database yet, it does not respond, or its schema is not current
    store: Store | None


class TaskScope(Enum):
    """The processes that run a background task."""

    #: each process, also those that only serve the API
    EACH_PROCESS = auto()
    #: each process that sends
    EACH_WORKER = auto()
    #: one worker at a time: each run is claimed in the database, and runs that were missed are made up once
    ONE_WORKER = auto()


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """Work that is repeated. A run that raises is logged, and the next one is due at its regular time."""

    #: unique within the channel or the pack; in the log, and with the name of its owner in the table `schedules`
    name: str
    #: from the end of a run to the start of the next; for ONE_WORKER, between the starts of two runs
    every: timedelta
    work: Callable[[], Awaitable[object]]
    scope: TaskScope = TaskScope.EACH_WORKER
