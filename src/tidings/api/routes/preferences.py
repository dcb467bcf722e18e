"""Preferences of a user: which categories, on which channels, about which objects."""

from collections.abc import Collection, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from tidings.api.context import RouteContext
from tidings.api.http.lookups import user_not_found
from tidings.api.schemas.preferences import (
    PreferencesBody,
    PreferencesPatch,
    PreferencesResponse,
    build_overview,
    validate_changes,
    validate_preferences,
)
from tidings.model.preference import Preference
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.preferences import compute_version
from tidings.schemas.json_route import JsonRoute

#: per user; a page that saves each click stays far below
_CHANGE_RATE = RateLimit(120, 60)
IfMatch = Annotated[str | None, Header(max_length=1000, description="`ETag` of the preferences that are changed")]


def router(context: RouteContext) -> APIRouter:
    """Return the preference routes. `me` comes first, so that it does not match as a user id."""
    routes = APIRouter(tags=["preferences"], route_class=JsonRoute)
    _add_own(routes, context)
    _add_by_id(routes, context)
    return routes


def _add_own(routes: APIRouter, context: RouteContext) -> None:
    require_user = context.authenticator.require_user()
    read_limit = Depends(context.rate_limited("read", READ_RATE, require_user))
    change_limit = Depends(context.rate_limited("preferences-change", _CHANGE_RATE, require_user))

    @routes.get("/users/me/preferences", dependencies=[read_limit])
    async def my_preferences(response: Response, user_id: str = Depends(require_user)) -> PreferencesResponse:
        """Return the calling user's effective preferences and entries."""
        return await _load(context, response, user_id)

    @routes.put("/users/me/preferences", dependencies=[change_limit])
    async def set_my_preferences(
        body: PreferencesBody, response: Response, if_match: IfMatch = None, user_id: str = Depends(require_user)
    ) -> PreferencesResponse:
        """Replace all entries of the calling user."""
        return await _replace(context, response, user_id, body, if_match)

    @routes.patch("/users/me/preferences", dependencies=[change_limit])
    async def change_my_preferences(
        body: PreferencesPatch, response: Response, if_match: IfMatch = None, user_id: str = Depends(require_user)
    ) -> PreferencesResponse:
        """Change some entries of the calling user; the others are kept."""
        return await _merge(context, response, user_id, body, if_match)


def _add_by_id(routes: APIRouter, context: RouteContext) -> None:
    @routes.get("/users/{user_id}/preferences")
    async def preferences(
        user_id: str, response: Response, _: str = Depends(context.require_scopes("read"))
    ) -> PreferencesResponse:
        """Return a user's effective preferences and entries."""
        return await _load(context, response, user_id)

    @routes.put("/users/{user_id}/preferences")
    async def set_preferences(
        user_id: str,
        body: PreferencesBody,
        response: Response,
        if_match: IfMatch = None,
        _: str = Depends(context.require_scopes("notify")),
    ) -> PreferencesResponse:
        """Replace all entries of a user."""
        return await _replace(context, response, user_id, body, if_match)

    @routes.patch("/users/{user_id}/preferences")
    async def change_preferences(
        user_id: str,
        body: PreferencesPatch,
        response: Response,
        if_match: IfMatch = None,
        _: str = Depends(context.require_scopes("notify")),
    ) -> PreferencesResponse:
        """Change some entries of a user; the others are kept."""
        return await _merge(context, response, user_id, body, if_match)


async def _load(context: RouteContext, response: Response, user_id: str) -> PreferencesResponse:
    return _respond(context, response, user_id, await context.runtime.preferences.get(user_id))


async def _replace(
    context: RouteContext, response: Response, user_id: str, body: PreferencesBody, if_match: str | None
) -> PreferencesResponse:
    entries = validate_preferences(context.runtime.catalog, body)
    stored = await context.runtime.preferences.replace(user_id, entries, if_versions=_parse_tags(if_match))
    return _respond(context, response, user_id, stored)


async def _merge(
    context: RouteContext, response: Response, user_id: str, body: PreferencesPatch, if_match: str | None
) -> PreferencesResponse:
    changed, removed = validate_changes(context.runtime.catalog, body)
    stored = await context.runtime.preferences.merge(user_id, changed, removed, if_versions=_parse_tags(if_match))
    return _respond(context, response, user_id, stored)


def _respond(
    context: RouteContext, response: Response, user_id: str, preferences: Sequence[Preference] | None
) -> PreferencesResponse:
    """Return the overview, with the version of the entries as its `ETag`. Raises NotFound for an unknown user."""
    if preferences is None:
        raise user_not_found(user_id)
    response.headers["ETag"] = f'"{compute_version(preferences)}"'
    return build_overview(context.runtime.catalog, preferences)


def _parse_tags(if_match: str | None) -> Collection[str] | None:
    """Return the versions of which a caller expects one (RFC 9110 §13.1.1); None = any.

    Tags of this API contain no comma. Weak ones count as well, because proxies that compress make tags weak.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return {tag.strip().removeprefix("W/").strip('"') for tag in if_match.split(",")}
