"""The events pack: events with tickets and favourites, and the news their changes make.

Takes: events of the host product, who has a ticket, who likes what.
Gives: categories, templates, audiences, template filters and routes; `EventService` for use from Python.
Never: sends anything itself, nor lets a notification that fails undo the update that caused it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidings.flow.detect.dates import instant
from tidings.packs.events.audiences import AUDIENCES
from tidings.packs.events.templates import CATEGORIES, TEMPLATES
from tidings.packs.events.words import described
from tidings.ports.pack import Pack

if TYPE_CHECKING:
    from fastapi import APIRouter

    from tidings.ports.host import Host


def _router(host: Host) -> APIRouter:
    # FastAPI takes a third of a second and 6 MB to import, which the command line and workers should not pay
    from tidings.packs.events.routes import router

    return router(host)


pack = Pack(
    name="events",
    categories=CATEGORIES,
    templates=TEMPLATES,
    audiences=AUDIENCES,
    filters={"described": described, "instant": instant},
    warm_up=lambda: instant("2026-01-01T00:00:00Z", "en", "UTC"),
    router=_router,
)
