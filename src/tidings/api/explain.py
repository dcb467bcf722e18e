"""Why did, or did not, this user get this? (MISSION B3, API.md)"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import JsonValue

from tidings.api.host import ApiHost
from tidings.api.shapes import DeliveryShown, SkipShown
from tidings.edge.answers import Shown
from tidings.insight.explain import Explanation
from tidings.insight.facts import explain_to


class CategoryRule(Shown):
    """What held for the user in the notification's category."""

    code: str
    mandatory: bool
    opt_in: bool
    #: the user's own choices, per channel
    choices: dict[str, bool]


class ExplanationShown(Shown):
    """The verdict, in words, and the facts it rests on."""

    user_id: str
    notification_id: str
    verdict: str
    sentences: list[str]
    category: CategoryRule | None
    deliveries: list[DeliveryShown]
    skips: list[SkipShown]
    #: the audience as it is now, with true or false at each leaf
    audience: dict[str, JsonValue]


def router(host: ApiHost) -> APIRouter:
    """Return the route /explain."""
    routes = APIRouter(tags=["explain"])

    @routes.get("/explain")
    async def explain(
        user_id: Annotated[str, Query(alias="userId", min_length=1, max_length=200)],
        notification_id: Annotated[str, Query(alias="notificationId", min_length=1, max_length=100)],
        _: str = Depends(host.require("read")),
    ) -> ExplanationShown:
        """Say why a user got a notification, or why not, with every decision that was recorded."""
        return await explained(host, user_id, notification_id)

    return routes


async def explained(host: ApiHost, user_id: str, notification_id: str) -> ExplanationShown:
    """Return the explanation. Raises NotFound for an unknown notification."""
    explanation = await explain_to(
        host.store, host.runtime.catalog, user_id=user_id, notification_id=notification_id, now=host.clock.now()
    )
    return shown(explanation)


def shown(explanation: Explanation) -> ExplanationShown:
    """Return what is shown of an explanation."""
    facts = explanation.facts
    category = facts.category
    return ExplanationShown.model_validate(
        {
            "userId": facts.user_id,
            "notificationId": facts.notification.id,
            "verdict": str(explanation.verdict),
            "sentences": list(explanation.sentences),
            "category": category
            and {
                "code": category.code,
                "mandatory": category.mandatory,
                "optIn": category.opt_in,
                "choices": {one.channel: one.enabled for one in facts.choices},
            },
            "deliveries": facts.deliveries,
            "skips": facts.skips,
            "audience": facts.membership.to_json(),
        }
    )
