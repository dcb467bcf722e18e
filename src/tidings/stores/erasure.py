"""Take an erased user out of the notifications that name them."""

from sqlalchemy import delete, select, update

from tidings.model.audience import from_json, only, to_json, without
from tidings.ports.store import Transaction
from tidings.stores.connection import of
from tidings.stores.schema import UNPLANNED, deliveries, notifications, skips

_n = notifications.c


async def forget(tx: Transaction, user_id: str) -> None:
    """Delete what was said to this user alone, and leave the id out of audiences that name others too.

    Call it while the user's deliveries and skips are still there: they say which notifications to look at.
    """
    reached = (
        select(deliveries.c.notification_id)
        .where(deliveries.c.user_id == user_id)
        .union(select(skips.c.notification_id).where(skips.c.user_id == user_id), select(_n.id).where(UNPLANNED))
    )
    for row in (await of(tx).execute(select(_n.id, _n.audience).where(_n.id.in_(reached)))).all():
        audience = from_json(row.audience)
        if only(audience, user_id):
            await of(tx).execute(delete(notifications).where(_n.id == row.id))
        elif (rest := without(audience, user_id)) != audience:
            await of(tx).execute(update(notifications).where(_n.id == row.id).values(audience=to_json(rest)))
