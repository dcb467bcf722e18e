"""The page of unsubscribe links, and the one-click unsubscription that mail programs offer (RFC 8058)."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from tidings.channels.email.composer import UNSUBSCRIBE_PATH
from tidings.channels.email.settings import EmailSettings
from tidings.channels.email.unsubscribe import verify_unsubscription
from tidings.channels.email.unsubscribe_page import render_confirmation, render_done, render_invalid
from tidings.model.preference import build_opt_out
from tidings.model.template import Category
from tidings.ports.pack_context import PackContext

_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}
_FOUND, _INVALID = 200, 404


def create_router(context: PackContext, settings: Callable[[], EmailSettings]) -> APIRouter:
    """Return the routes. settings: read at the first call, because a server without e-mail needs none."""
    routes = APIRouter(tags=["unsubscribe"])
    path = UNSUBSCRIBE_PATH + "{token}"

    def find_category(token: str) -> tuple[str, Category] | None:
        found = verify_unsubscription(context.secret_key, token)
        return None if found is None else (found.user_id, context.get_category(found.category))

    @routes.get(path, include_in_schema=False)
    async def show(token: str) -> HTMLResponse:
        """Show a page with a button. It changes nothing: link scanners open links before people do."""
        found = find_category(token)
        if found is None:
            return HTMLResponse(render_invalid(settings()), _INVALID, _HEADERS)
        user_id, category = found
        return HTMLResponse(
            render_confirmation(settings(), category.title, await _read_locale(context, user_id)), _FOUND, _HEADERS
        )

    @routes.post(path, include_in_schema=False)
    async def unsubscribe(token: str) -> HTMLResponse:
        """Turn e-mail of the category off for the user. Needs no cookie and no login, and may be repeated."""
        found = find_category(token)
        if found is None:
            return HTMLResponse(render_invalid(settings()), _INVALID, _HEADERS)
        user_id, category = found
        async with context.edit_preferences(user_id) as tx:
            # an erased user receives nothing any more, which is what the link asks for
            if await context.store.users.lock_preferences(tx, user_id):
                entries = await context.store.users.get_preferences(tx, user_id)
                await context.store.users.set_preferences(tx, user_id, build_opt_out(category.code, "email", entries))
        return HTMLResponse(
            render_done(settings(), category.title, await _read_locale(context, user_id)), _FOUND, _HEADERS
        )

    return routes


async def _read_locale(context: PackContext, user_id: str) -> str:
    async with context.store.read_once() as tx:
        user = await context.store.users.get(tx, user_id)
    return "en" if user is None else user.locale
