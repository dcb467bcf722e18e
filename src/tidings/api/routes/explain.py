"""Explains why a user received a notification, or why not."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from tidings.api.context import RouteContext
from tidings.api.schemas.explain import ExplanationResponse, explanation_response
from tidings.observability.explain_query import explain_notification


def router(context: RouteContext) -> APIRouter:
    """Return the route /explain."""
    routes = APIRouter(tags=["explain"])

    @routes.get("/explain")
    async def explain(
        user_id: Annotated[str, Query(alias="userId", min_length=1, max_length=200)],
        notification_id: Annotated[str, Query(alias="notificationId", min_length=1, max_length=100)],
        _: str = Depends(context.require_scopes("read")),
    ) -> ExplanationResponse:
        """Explain why a user received a notification, or why not, with every recorded decision."""
        return await load_explanation(context, user_id, notification_id)

    return routes


async def load_explanation(context: RouteContext, user_id: str, notification_id: str) -> ExplanationResponse:
    """Return the explanation. Raises NotFound for an unknown notification."""
    explanation = await explain_notification(
        context.store,
        context.runtime.catalog,
        user_id=user_id,
        notification_id=notification_id,
        now=context.clock.now(),
    )
    return explanation_response(explanation)
