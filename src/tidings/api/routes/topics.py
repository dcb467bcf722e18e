"""Topics of a user, for the audience kind `topic`."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from tidings.api.context import RouteContext
from tidings.api.http.lookups import get_user_or_404
from tidings.errors import NotFound, ValidationFailed
from tidings.model.topic import MAX_TOPICS_PER_USER, TopicSubscription
from tidings.ports.rate_limits import READ_RATE, RateLimit
from tidings.ports.store import Transaction
from tidings.schemas.field_types import TopicName
from tidings.schemas.json_route import JsonRoute
from tidings.schemas.response_models import ResponseModel, paginate_by

#: per user; a page that saves each click stays far below
_CHANGE_RATE = RateLimit(120, 60)
PageLimit = Annotated[int, Query(ge=1, le=500)]
TopicCursor = Annotated[TopicName | None, Query(description="`nextCursor` of the previous page")]


class TopicResponse(ResponseModel):
    """A topic that a user subscribed to."""

    topic: str
    created_at: datetime


class TopicPage(ResponseModel):
    """Topics of a user, in the order of their names."""

    items: list[TopicResponse]
    next_cursor: str | None


class TopicRoutes:
    """The work of the routes, for a user by id."""

    def __init__(self, context: RouteContext) -> None:
        self._store = context.store
        self._clock = context.clock

    async def load_page(self, user_id: str, cursor: str | None, limit: int) -> TopicPage:
        """Return a page of topics. Raises NotFound for an unknown user."""
        async with self._store.read_snapshot() as tx:
            await get_user_or_404(self._store, tx, user_id)
            rows = await self._store.topics.list_by_user(tx, user_id, after=cursor, limit=limit + 1)
        page, next_cursor = paginate_by(rows, limit, lambda row: row.topic)
        return TopicPage(items=[TopicResponse.model_validate(row) for row in page], next_cursor=next_cursor)

    async def load(self, user_id: str, topic: str) -> TopicResponse:
        """Return one subscription. Raises NotFound."""
        async with self._store.read_snapshot() as tx:
            await get_user_or_404(self._store, tx, user_id)
            return await self._get(tx, user_id, topic)

    async def subscribe(self, user_id: str, topic: str) -> TopicResponse:
        """Subscribe a user. Repeating the call changes nothing. Raises NotFound, or ValidationFailed at the maximum."""
        async with self._store.transaction() as tx:
            await get_user_or_404(self._store, tx, user_id, lock=True)
            is_new = await self._store.topics.subscribe(tx, user_id, topic, self._clock.now())
            if is_new and await self._store.topics.count(tx, user_id) > MAX_TOPICS_PER_USER:
                raise ValidationFailed.for_field("topic", f"a user has at most {MAX_TOPICS_PER_USER} topics")
            return await self._get(tx, user_id, topic)

    async def unsubscribe(self, user_id: str, topic: str) -> None:
        """End a subscription. Repeating the call changes nothing. Raises NotFound for an unknown user."""
        async with self._store.transaction() as tx:
            await get_user_or_404(self._store, tx, user_id, lock=True)
            await self._store.topics.unsubscribe(tx, user_id, topic)

    async def _get(self, tx: Transaction, user_id: str, topic: str) -> TopicResponse:
        found: TopicSubscription | None = await self._store.topics.get(tx, user_id, topic)
        if found is None:
            raise NotFound(f"User {user_id} has not subscribed to the topic {topic}.", code="unknown_topic")
        return TopicResponse.model_validate(found)


def router(context: RouteContext) -> APIRouter:
    """Return the topic routes. `me` comes first, so that it does not match as a user id."""
    routes = APIRouter(tags=["topics"], route_class=JsonRoute)
    _add_own(routes, context, TopicRoutes(context))
    _add_of_users(routes, context, TopicRoutes(context))
    return routes


def _add_own(routes: APIRouter, context: RouteContext, topics: TopicRoutes) -> None:
    require_user = context.authenticator.require_user()
    read_limit = Depends(context.rate_limited("read", READ_RATE, require_user))
    change_limit = Depends(context.rate_limited("topics-change", _CHANGE_RATE, require_user))

    @routes.get("/users/me/topics", dependencies=[read_limit])
    async def my_topics(
        user_id: str = Depends(require_user), cursor: TopicCursor = None, limit: PageLimit = 100
    ) -> TopicPage:
        """List the calling user's topics."""
        return await topics.load_page(user_id, cursor, limit)

    @routes.get("/users/me/topics/{topic}", dependencies=[read_limit])
    async def my_topic(topic: TopicName, user_id: str = Depends(require_user)) -> TopicResponse:
        """Return a topic of the calling user. 404 if the user has not subscribed to it."""
        return await topics.load(user_id, topic)

    @routes.put("/users/me/topics/{topic}", dependencies=[change_limit])
    async def subscribe_me(topic: TopicName, user_id: str = Depends(require_user)) -> TopicResponse:
        """Subscribe the calling user to a topic."""
        return await topics.subscribe(user_id, topic)

    @routes.delete("/users/me/topics/{topic}", dependencies=[change_limit], status_code=204)
    async def unsubscribe_me(topic: TopicName, user_id: str = Depends(require_user)) -> None:
        """End the calling user's subscription to a topic."""
        await topics.unsubscribe(user_id, topic)


def _add_of_users(routes: APIRouter, context: RouteContext, topics: TopicRoutes) -> None:
    may_read, may_change = Depends(context.require_scopes("read")), Depends(context.require_scopes("notify"))

    @routes.get("/users/{user_id}/topics", dependencies=[may_read])
    async def list_topics(user_id: str, cursor: TopicCursor = None, limit: PageLimit = 100) -> TopicPage:
        """List a user's topics."""
        return await topics.load_page(user_id, cursor, limit)

    @routes.get("/users/{user_id}/topics/{topic}", dependencies=[may_read])
    async def topic_of_user(user_id: str, topic: TopicName) -> TopicResponse:
        """Return a topic of a user. 404 if the user has not subscribed to it."""
        return await topics.load(user_id, topic)

    @routes.put("/users/{user_id}/topics/{topic}", dependencies=[may_change])
    async def subscribe(user_id: str, topic: TopicName) -> TopicResponse:
        """Subscribe a user to a topic."""
        return await topics.subscribe(user_id, topic)

    @routes.delete("/users/{user_id}/topics/{topic}", dependencies=[may_change], status_code=204)
    async def unsubscribe(user_id: str, topic: TopicName) -> None:
        """End a user's subscription to a topic."""
        await topics.unsubscribe(user_id, topic)
