"""Counters of limits: what is counted per user in a sliding window, and messages of the installation per clock hour.

All of them count in the caller's transaction, which locks what it counts until its end.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

from tidings.flow.fanout.limits import Limit, select_allowed
from tidings.ports.store import Store, Transaction

#: notification id → user id → messages that leave the installation, in counting order
Demands: TypeAlias = Mapping[str, Mapping[str, int]]


class LimitCounter(Protocol):
    """Counts notifications for limits of one kind."""

    async def consume(self, tx: Transaction, limit: Limit, demands: Demands, now: datetime) -> Mapping[str, set[str]]:
        """Count notifications, and return notification id → users within the limit. Only these are counted."""
        ...

    async def take_back(self, tx: Transaction, limit: Limit, counted: Mapping[str, int], now: datetime) -> None:
        """Take back what this transaction counted of a notification. counted: user id → messages."""
        ...

    async def describe(
        self, tx: Transaction, limit: Limit, user_ids: Sequence[str], now: datetime
    ) -> Mapping[str, Mapping[str, object]]:
        """Return user id → what the detail of a skip says of the window: its count and its end."""
        ...


class UserCounter:
    """A `LimitCounter` of limits per user: each notification counts once for each of its users."""

    def __init__(self, store: Store) -> None:
        self._counts = store.user_rate_limits

    async def consume(self, tx: Transaction, limit: Limit, demands: Demands, now: datetime) -> Mapping[str, set[str]]:
        # each round counts one notification per user, so a user of several notifications takes several rounds
        pending: dict[str, list[str]] = {}
        for notification_id, user_ids in demands.items():
            for user_id in user_ids:
                pending.setdefault(user_id, []).append(notification_id)
        allowed: dict[str, set[str]] = {notification_id: set() for notification_id in demands}
        while pending:
            within_limit = await self._counts.consume(
                tx,
                limit.scope,
                list(pending),
                limit=limit.amount,
                window=limit.window,
                now=now,
                is_enforced=limit.is_enforced,
            )
            for user_id in within_limit:
                allowed[pending[user_id].pop(0)].add(user_id)
            # a user over the limit receives none of the later notifications either
            pending = {user_id: pending[user_id] for user_id in within_limit if pending[user_id]}
        # a user who was erased in the meantime is not counted
        return allowed if limit.is_enforced else {one: set(user_ids) for one, user_ids in demands.items()}

    async def take_back(self, tx: Transaction, limit: Limit, counted: Mapping[str, int], _now: datetime) -> None:
        await self._counts.release(tx, limit.scope, list(counted))

    async def describe(
        self, tx: Transaction, limit: Limit, user_ids: Sequence[str], now: datetime
    ) -> Mapping[str, Mapping[str, object]]:
        stamps = await self._counts.list_times(tx, limit.scope, user_ids, window=limit.window, now=now)
        return {
            user_id: _describe_window(len(counted), counted[-limit.amount] + limit.window)
            for user_id, counted in stamps.items()
            if len(counted) >= limit.amount
        }


class MessageCounter:
    """A `LimitCounter` of limits of the installation: messages to all users in a window of the clock."""

    def __init__(self, store: Store) -> None:
        self._quotas = store.quotas

    async def consume(self, tx: Transaction, limit: Limit, demands: Demands, now: datetime) -> Mapping[str, set[str]]:
        if not any(amount for of_users in demands.values() for amount in of_users.values()):
            # nothing leaves the installation, so there is nothing to wait for
            return {notification_id: set(of_users) for notification_id, of_users in demands.items()}
        used = await self._read(tx, limit, now)
        allowed, counted = select_allowed(demands, limit, used)
        await self._add(tx, limit, counted - used, now)
        return allowed

    async def take_back(self, tx: Transaction, limit: Limit, counted: Mapping[str, int], now: datetime) -> None:
        await self._add(tx, limit, -sum(counted.values()), now)

    async def describe(
        self, tx: Transaction, limit: Limit, user_ids: Sequence[str], now: datetime
    ) -> Mapping[str, Mapping[str, object]]:
        hour = now.replace(minute=0, second=0, microsecond=0)
        return dict.fromkeys(user_ids, _describe_window(await self._read(tx, limit, now), hour + limit.window))

    async def _read(self, tx: Transaction, limit: Limit, now: datetime) -> int:
        return await self._quotas.lock_sum(tx, _build_key(limit, now), now.date(), maximum=limit.amount)

    async def _add(self, tx: Transaction, limit: Limit, amount: int, now: datetime) -> None:
        if amount:
            await self._quotas.add_to_sum(tx, _build_key(limit, now), now.date(), amount)


def _build_key(limit: Limit, now: datetime) -> str:
    """Return the key of the present clock hour."""
    return f"{limit.scope}:{now:%H}"


def _describe_window(count: int, end: datetime) -> Mapping[str, object]:
    return {"count": count, "windowEnd": end.isoformat(timespec="seconds")}
