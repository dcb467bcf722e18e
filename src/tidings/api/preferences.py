"""What a user wants to hear, category × channel (MISSION M4, API.md)."""

from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from tidings.api.host import ApiHost
from tidings.api.known import known_user, unknown_user
from tidings.api.served import Words
from tidings.edge import bodies, describe
from tidings.edge.answers import Shown
from tidings.edge.bodies import Body
from tidings.errors import Fault, Invalid
from tidings.model.user import Preference


class ChoiceBody(Body):
    """One choice."""

    category: str
    channel: str
    enabled: bool


class PreferencesBody(Body):
    """The choices to change; all others stay."""

    preferences: list[ChoiceBody] = Field(min_length=1, max_length=1000)


class Choice(Shown):
    """One choice that the user made."""

    category: str
    channel: str
    enabled: bool


class CategoryShown(Shown):
    """One category with what holds for this user on each channel."""

    code: str
    title: str
    mandatory: bool
    opt_in: bool
    channels: dict[str, bool]


class PreferencesShown(Shown):
    """Every category."""

    categories: list[CategoryShown]


def overview(words: Words, choices: Sequence[Preference]) -> PreferencesShown:
    """Return what holds for a user in each category: mandatory, else their own choice, else the default."""
    made = {(one.category, one.channel): one.enabled for one in choices}
    return PreferencesShown(
        categories=[
            CategoryShown(
                code=category.code,
                title=category.title,
                mandatory=category.mandatory,
                opt_in=category.opt_in,
                channels={
                    channel: category.mandatory or made.get((category.code, channel), not category.opt_in)
                    for channel in words.channels
                },
            )
            for category in words.categories.values()
        ]
    )


def checked(words: Words, body: PreferencesBody) -> list[Preference]:
    """Return the choices. Raises Invalid for an unknown category or channel, or a mandatory one turned off."""
    faults: list[Fault] = []
    for number, one in enumerate(body.preferences):
        at = f"preferences[{number}]"
        category = words.categories.get(one.category)
        if category is None:
            faults.append(Fault(f"{at}.category", f"unknown; known are: {', '.join(sorted(words.categories))}"))
        elif category.mandatory and not one.enabled:
            faults.append(Fault(f"{at}.enabled", f"{category.code} is mandatory and cannot be turned off"))
        if one.channel not in words.known_channels:
            faults.append(Fault(f"{at}.channel", f"unknown; known are: {', '.join(words.known_channels)}"))
    if faults:
        raise Invalid.of(faults)
    last = {(one.category, one.channel): one.enabled for one in body.preferences}
    return [Preference(category, channel, enabled) for (category, channel), enabled in last.items()]


def router(host: ApiHost) -> APIRouter:
    """Return the preference routes. `me` comes first, so that it is not taken for a user id."""
    routes = APIRouter(tags=["preferences"])
    words = host.runtime.catalog
    me = host.gate.user()

    async def load(user_id: str) -> PreferencesShown:
        made = await host.runtime.choices.of(user_id)
        if made is None:
            raise unknown_user(user_id)
        return overview(words, made)

    async def save(user_id: str, request: Request) -> PreferencesShown:
        choices = checked(words, bodies.read(await request.body(), PreferencesBody))
        async with host.runtime.choices.changing(user_id) as tx:
            await known_user(host.store, tx, user_id)
            await host.store.users.set_preferences(tx, user_id, choices)
            return overview(words, await host.store.users.preferences(tx, user_id))

    @routes.get("/users/me/preferences", openapi_extra=describe.called_by("userToken"))
    async def my_preferences(user_id: str = Depends(me)) -> PreferencesShown:
        """Return what holds for the calling user."""
        return await load(user_id)

    @routes.put("/users/me/preferences", openapi_extra=describe.takes(PreferencesBody, security="userToken"))
    async def set_my_preferences(request: Request, user_id: str = Depends(me)) -> PreferencesShown:
        """Change choices of the calling user."""
        return await save(user_id, request)

    @routes.get("/users/{user_id}/preferences")
    async def preferences(user_id: str, _: str = Depends(host.require("read"))) -> PreferencesShown:
        """Return what holds for a user."""
        return await load(user_id)

    @routes.put("/users/{user_id}/preferences", openapi_extra=describe.takes(PreferencesBody))
    async def set_preferences(
        user_id: str, request: Request, _: str = Depends(host.require("notify"))
    ) -> PreferencesShown:
        """Change choices of a user."""
        return await save(user_id, request)

    return routes
