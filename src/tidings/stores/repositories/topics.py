"""Topics of users."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select

from tidings.model.topic import TopicSubscription
from tidings.ports.store import Transaction
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import user_topics
from tidings.stores.sql.upsert import upsert

_t = user_topics.c
_SELECT = select(_t.topic, _t.created_at)


class SqlTopics:
    """Implements `ports.audiences.Topics`."""

    async def subscribe(self, tx: Transaction, user_id: str, topic: str, now: datetime) -> bool:
        new = upsert(tx, user_topics).values(user_id=user_id, topic=topic, created_at=now)
        return (await connection_of(tx).execute(new.on_conflict_do_nothing())).rowcount == 1

    async def unsubscribe(self, tx: Transaction, user_id: str, topic: str) -> bool:
        ended = delete(user_topics).where(_t.user_id == user_id, _t.topic == topic)
        return (await connection_of(tx).execute(ended)).rowcount == 1

    async def get(self, tx: Transaction, user_id: str, topic: str) -> TopicSubscription | None:
        query = _SELECT.where(_t.user_id == user_id, _t.topic == topic)
        row = (await connection_of(tx).execute(query)).one_or_none()
        return None if row is None else TopicSubscription(row.topic, row.created_at)

    async def list_by_user(
        self, tx: Transaction, user_id: str, *, after: str | None = None, limit: int
    ) -> Sequence[TopicSubscription]:
        query = _SELECT.where(_t.user_id == user_id, _t.topic > (after or "")).order_by(_t.topic).limit(limit)
        return [TopicSubscription(row.topic, row.created_at) for row in await connection_of(tx).execute(query)]

    async def count(self, tx: Transaction, user_id: str) -> int:
        query = select(func.count()).select_from(user_topics).where(_t.user_id == user_id)
        return await connection_of(tx).scalar(query) or 0
