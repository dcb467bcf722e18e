"""Preferences of a user, per category and channel."""

from collections.abc import Sequence

from fastapi import APIRouter, Depends
from pydantic import Field

from tidings.api.context import RouteContext
from tidings.api.http.lookups import get_user_or_404, user_not_found
from tidings.errors import FieldError, ValidationFailed
from tidings.flow.catalog import Catalog
from tidings.model.consent import ConsentGranted, check_consent
from tidings.model.user import Preference
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.schemas.json_body import RequestModel
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel

#: per user; a page that saves each click stays far below
_CHANGE_RATE = RateLimit(120, 60)


class PreferenceBody(RequestModel):
    """One preference."""

    category: str
    channel: str
    enabled: bool


class PreferencesBody(RequestModel):
    """The preferences to change. Others are kept."""

    preferences: list[PreferenceBody] = Field(min_length=1, max_length=1000)


class PreferenceResponse(ResponseModel):
    """One stored preference."""

    category: str
    channel: str
    enabled: bool


class CategoryResponse(ResponseModel):
    """One category, and whether the user receives it on each channel."""

    code: str
    title: str
    mandatory: bool
    opt_in: bool
    channels: dict[str, bool]


class PreferencesResponse(ResponseModel):
    """All categories."""

    categories: list[CategoryResponse]


def build_overview(catalog: Catalog, preferences: Sequence[Preference]) -> PreferencesResponse:
    """Return a user's effective preferences: mandatory, else their own preference, else the category's default."""
    choices = {(preference.category, preference.channel): preference.enabled for preference in preferences}
    return PreferencesResponse(
        categories=[
            CategoryResponse(
                code=category.code,
                title=category.title,
                mandatory=category.mandatory,
                opt_in=category.opt_in,
                channels={
                    channel: isinstance(check_consent(choices.get((category.code, channel)), category), ConsentGranted)
                    for channel in catalog.channels
                },
            )
            for category in catalog.categories.values()
        ]
    )


def validate_preferences(catalog: Catalog, body: PreferencesBody) -> list[Preference]:
    """Return the preferences of a request; the last one per category and channel counts.

    Raises ValidationFailed for an unknown category or channel, or a mandatory category turned off.
    """
    errors: list[FieldError] = []
    for number, choice in enumerate(body.preferences):
        path = f"preferences[{number}]"
        category = catalog.categories.get(choice.category)
        if category is None:
            known = ", ".join(sorted(catalog.categories))
            errors.append(FieldError(f"{path}.category", f"is not a category; known are: {known}"))
        elif category.mandatory and not choice.enabled:
            errors.append(FieldError(f"{path}.enabled", f"{category.code} is mandatory and cannot be turned off"))
        if choice.channel not in catalog.known_channels:
            known = ", ".join(catalog.known_channels)
            errors.append(FieldError(f"{path}.channel", f"is not a channel; known are: {known}"))
    if errors:
        raise ValidationFailed.from_errors(errors)
    last = {(choice.category, choice.channel): choice.enabled for choice in body.preferences}
    return [Preference(category, channel, enabled) for (category, channel), enabled in last.items()]


def router(context: RouteContext) -> APIRouter:
    """Return the preference routes. `me` comes first, so that it does not match as a user id."""
    routes = APIRouter(tags=["preferences"], route_class=JsonRoute)
    catalog = context.runtime.catalog
    require_user = context.authenticator.require_user()

    async def load(user_id: str) -> PreferencesResponse:
        preferences = await context.runtime.preferences.get(user_id)
        if preferences is None:
            raise user_not_found(user_id)
        return build_overview(catalog, preferences)

    async def save(user_id: str, body: PreferencesBody) -> PreferencesResponse:
        choices = validate_preferences(catalog, body)
        async with context.runtime.preferences.edit(user_id) as tx:
            await get_user_or_404(context.store, tx, user_id, lock=True)
            await context.store.users.set_preferences(tx, user_id, choices)
            return build_overview(catalog, await context.store.users.get_preferences(tx, user_id))

    read_limit = Depends(context.rate_limited("read", READ_RATE, require_user))
    change_limit = Depends(context.rate_limited("preferences-change", _CHANGE_RATE, require_user))

    @routes.get("/users/me/preferences", dependencies=[read_limit])
    async def my_preferences(user_id: str = Depends(require_user)) -> PreferencesResponse:
        """Return the calling user's effective preferences."""
        return await load(user_id)

    @routes.put("/users/me/preferences", dependencies=[change_limit])
    async def set_my_preferences(body: PreferencesBody, user_id: str = Depends(require_user)) -> PreferencesResponse:
        """Change preferences of the calling user."""
        return await save(user_id, body)

    @routes.get("/users/{user_id}/preferences")
    async def preferences(user_id: str, _: str = Depends(context.require_scopes("read"))) -> PreferencesResponse:
        """Return a user's effective preferences."""
        return await load(user_id)

    @routes.put("/users/{user_id}/preferences")
    async def set_preferences(
        user_id: str, body: PreferencesBody, _: str = Depends(context.require_scopes("notify"))
    ) -> PreferencesResponse:
        """Change preferences of a user."""
        return await save(user_id, body)

    return routes
