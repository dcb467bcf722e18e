"""The events pack: events with tickets and favourites, and notifications about their changes.

Takes: the host product's events, tickets and favourites.
Gives: categories, templates, audiences, template filters and routes; `EventService` for use from Python.
Never: sends anything itself, or rolls back an update because its notification was not accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidings.localization.dates import format_instant_at_venue, format_local_instant
from tidings.packs.events.audiences import AUDIENCES
from tidings.packs.events.repository import erase, export
from tidings.packs.events.settings import EventsSettings
from tidings.packs.events.templates import CATEGORIES, TEMPLATES
from tidings.packs.events.translations import format_changes
from tidings.ports.pack import Pack

if TYPE_CHECKING:
    from fastapi import APIRouter

    from tidings.ports.pack_context import PackContext


def _create_router(context: PackContext) -> APIRouter:
    # imported here because FastAPI takes 0.3 s and 6 MB to import, which the command line and workers do not need
    from tidings.packs.events.routes import create_router

    return create_router(context)


pack = Pack(
    name="events",
    categories=CATEGORIES,
    templates=TEMPLATES,
    audiences=AUDIENCES,
    filters={"described": format_changes, "instant": format_local_instant, "instant_at_venue": format_instant_at_venue},
    warm_up=lambda: format_local_instant("2026-01-01T00:00:00Z", "en", "UTC"),
    router=_create_router,
    export=export,
    erase=erase,
    settings=EventsSettings,
)
