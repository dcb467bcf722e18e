"""A pack: one product domain on top of the engine. It declares its words, sets of people and routes (DESIGN.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidings.model.template import Category, Template

if TYPE_CHECKING:
    from fastapi import APIRouter
    from sqlalchemy import Select

    from tidings.ports.host import Host

#: value, locale, IANA time zone → text
Filter = Callable[[object, str, str], str]


@dataclass(frozen=True, slots=True)
class AudienceKind:
    """A named set of users that audiences can be composed of."""

    name: str
    #: argument name (camelCase) → example, used for validation and in error messages
    parameters: Mapping[str, str]
    #: arguments → SELECT of exactly one column, the user ids, at most one row per user and an index behind it
    members: Callable[[Mapping[str, object]], Select[str]]
    #: one sentence for explain, formatted with the arguments: `holds an active ticket of event {eventId}`
    sentence: str


@dataclass(frozen=True, slots=True)
class Pack:
    """What a product domain brings. Found by the entry-point group `tidings.packs`."""

    name: str
    categories: Sequence[Category] = ()
    templates: Sequence[Template] = ()
    audiences: Sequence[AudienceKind] = ()
    #: template filters that show values to people
    filters: Mapping[str, Filter] = field(default_factory=dict)
    #: loads what the first use would have to load (locale data, say), called once when a worker starts
    warm_up: Callable[[], object] | None = None
    #: host → routes mounted under `/api`
    router: Callable[[Host], APIRouter] | None = None
