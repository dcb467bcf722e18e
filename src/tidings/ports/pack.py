"""A pack: one product domain on top of the engine. All that it brings is in one declaration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from tidings.model.decision import Defer, Skip
from tidings.model.delivery import SkipReason
from tidings.model.template import Category, Template
from tidings.model.trigger import Trigger

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from fastapi import APIRouter
    from pydantic import BaseModel
    from sqlalchemy import Select

    from tidings.model.check import CheckResult
    from tidings.model.notification import Notification
    from tidings.model.recurring import SourceRequest
    from tidings.ports.pack_context import PackContext, PackServices
    from tidings.ports.plugin import BackgroundTask, CheckContext
    from tidings.ports.transaction import Transaction

#: value, locale, IANA time zone → text
TemplateFilter = Callable[[object, str, str], str]


@dataclass(frozen=True, slots=True)
class AudienceKind:
    """A kind of named set that audiences are composed of."""

    name: str
    #: argument name (camelCase) → example, used for validation and in error messages
    parameters: Mapping[str, str]
    #: arguments → SELECT of exactly one column, the user ids: at most one row per user, backed by an index
    members: Callable[[Mapping[str, object]], Select[str]]
    #: one sentence for explain, formatted with the arguments: `holds an active ticket of event {eventId}`
    sentence: str
    #: transaction, arguments → what is wrong with them, by parameter: `{"eventId": "is an unknown event"}`. A
    #: notification with a wrong argument is rejected. None: every value is accepted
    check: Callable[[Transaction, Mapping[str, object]], Awaitable[Mapping[str, str]]] | None = None
    #: arguments → what is wrong with them, by parameter, without the database. None: each parameter is required, and a
    #: text of 1 to 200 characters
    validate: Callable[[Mapping[str, object]], Mapping[str, str]] | None = None
    #: arguments, time of acceptance → the arguments that are stored: `days` becomes the instant `since`
    pin: Callable[[Mapping[str, object], datetime], Mapping[str, object]] | None = None
    #: rank of its likely size, 1 (few users) to 8 (every user): the part of an intersection with the lowest one is read
    #: in user order, the others are checked per user
    breadth: int = 1


@dataclass(frozen=True, slots=True)
class RuleInput:
    """What a rule sees of one recipient on one channel, when it is planned and again just before sending."""

    user_id: str
    channel: str
    #: IANA name
    timezone: str
    notification: Notification
    category: Category
    now: datetime

    def skip(self, **detail: object) -> Skip:
        """Return the decision that nothing is sent. detail: the inputs of the decision, JSON values."""
        return Skip(SkipReason.PACK_RULE, detail)

    def defer(self, until: datetime, **detail: object) -> Defer:
        """Return the decision that nothing is sent before `until`, when all rules are asked again."""
        return Defer(until, "", detail)


#: Pure: reads no database and no clock. None leaves the decision to the next rule
PackRule = Callable[[RuleInput], Skip | Defer | None]


#: Returns the variables of a run of a recurring notification, None = nothing to send this time. It must end within 30
#: seconds; what it raises is recorded, and the run is tried again with the same `run_id`
VariablesFunction: TypeAlias = "Callable[[SourceRequest, PackServices], Awaitable[Mapping[str, object] | None]]"


@dataclass(frozen=True, slots=True)
class Pack:
    """The declarations of a product domain. Discovered through the entry-point group `tidings.packs`."""

    name: str
    categories: Sequence[Category] = ()
    templates: Sequence[Template] = ()
    audiences: Sequence[AudienceKind] = ()
    #: which domain events cause which notification
    triggers: Sequence[Trigger] = ()
    #: template filters that format values for people
    filters: Mapping[str, TemplateFilter] = field(default_factory=dict)
    #: name → rule of the plan, asked after those of the engine; explain shows the name and the inputs that it records
    rules: Mapping[str, PackRule] = field(default_factory=dict)
    #: name → function that recurring notifications pull variables from
    variable_functions: Mapping[str, VariablesFunction] = field(default_factory=dict)
    #: loads data in advance that the first use would load (such as locale data); called once when a worker starts
    warm_up: Callable[[], object] | None = None
    #: context → routes mounted under `/api`
    router: Callable[[PackContext], APIRouter] | None = None
    #: transaction, user id → everything the pack stores about the user, by name: JSON values and aware datetimes
    export: Callable[[Transaction, str], Awaitable[Mapping[str, object]]] | None = None
    #: transaction, user id: deletes everything the pack stores about the user; called before the user row is deleted
    erase: Callable[[Transaction, str], Awaitable[None]] | None = None
    #: the folder of the pack's migrations, `m0001_….py` and so on (docs/howto/new-pack.md); they run after those of the
    #: engine, at start and with `tidings db upgrade`
    migrations: Path | None = None
    #: model of the variables `TIDINGS_<PACK>__…`: checked at the start of each process, listed by `tidings doctor`
    settings: type[BaseModel] | None = None
    #: → lines of `tidings doctor`; whatever is wrong names the setting and the fix
    check: Callable[[CheckContext], Awaitable[Sequence[CheckResult]]] | None = None
    #: services → work that is repeated while a process runs; called once in each server process
    create_tasks: Callable[[PackServices], Sequence[BackgroundTask]] | None = None
