"""The commerce pack: orders, payments, stock and new customers of a shop, and the notifications about them.

Takes: the shop's events, also repeated and out of order.
Gives: categories, templates, audiences, template filters, tables and routes; `CommerceService` for use from Python.
Never: sends anything itself, or records an event without its notification.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tidings.localization.amounts import format_money, format_quantity
from tidings.packs.commerce import repository
from tidings.packs.commerce.audiences import AUDIENCES
from tidings.packs.commerce.settings import CommerceSettings
from tidings.packs.commerce.templates import CATEGORIES, TEMPLATES
from tidings.ports.pack import Pack
from tidings.ports.plugin import BackgroundTask, TaskScope

if TYPE_CHECKING:
    from fastapi import APIRouter

    from tidings.ports.pack_context import PackContext, PackServices

#: retention of the events of an order whose creation is not reported, for example because of a wrong id
UNKNOWN_ORDER_RETENTION = timedelta(days=30)
PURGE_EVERY = timedelta(days=1)


def _create_router(context: PackContext) -> APIRouter:
    # imported here because FastAPI takes 0.3 s and 6 MB to import, which the command line and workers do not need
    from tidings.packs.commerce.routes import create_router

    return create_router(context)


def _create_tasks(services: PackServices) -> Sequence[BackgroundTask]:
    async def purge() -> None:
        async with services.store.transaction() as tx:
            await repository.purge_unknown_orders(tx, services.clock.now() - UNKNOWN_ORDER_RETENTION)

    return [BackgroundTask("purge", PURGE_EVERY, purge, TaskScope.ONE_WORKER)]


pack = Pack(
    name="commerce",
    categories=CATEGORIES,
    templates=TEMPLATES,
    audiences=AUDIENCES,
    filters={"money": format_money, "quantity": format_quantity},
    warm_up=lambda: format_money([1, "EUR"], "en", "UTC"),
    router=_create_router,
    export=repository.export,
    erase=repository.erase,
    migrations=Path(__file__).parent / "migrations",
    settings=CommerceSettings,
    create_tasks=_create_tasks,
)
