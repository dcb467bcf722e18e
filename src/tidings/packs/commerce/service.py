"""Service for orders, payments, stock and new customers: records what happened, and accepts the notifications about it.

Every method runs in the caller's transaction. What happened and its notification are committed together or not at all,
so a caller who repeats a call that failed loses nothing. A call that was recorded before changes nothing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tidings.errors import Conflict, NotFound, ValidationFailed
from tidings.model.audience import users
from tidings.model.notification import Notification
from tidings.model.request import NotifyRequest
from tidings.packs.commerce import repository
from tidings.packs.commerce.order import (
    Order,
    build_order_requests,
    record_creation,
    record_delivery,
    record_shipment,
)
from tidings.packs.commerce.payment import Payment, PaymentResult, apply_result, build_payment_request
from tidings.packs.commerce.stock import StockItem, build_low_stock_request, build_stock_subject
from tidings.ports.clock import Clock
from tidings.ports.pack_context import NotificationAcceptor
from tidings.ports.store import Store, Transaction


@dataclass(frozen=True, slots=True)
class OrderUpdate:
    """An order after an event, and the notifications that the event caused."""

    order: Order
    notifications: Sequence[Notification]


class CommerceService:
    """Records business events in the caller's transaction and has `notifier` accept the notifications about them."""

    def __init__(self, store: Store, notifier: NotificationAcceptor, clock: Clock, *, payment_grace: timedelta) -> None:
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self._payment_grace = payment_grace

    async def create_order(self, tx: Transaction, new: Order, skus: Collection[str]) -> OrderUpdate:
        """Record the creation of an order, and that its buyer bought the products.

        new: with all that is known of it but its events. Raises ValidationFailed for an unknown user, Conflict if the
        order is another user's.
        """
        assert new.user_id is not None, "a new order has a buyer"
        await self._lock_user(tx, new.user_id)
        before = await repository.lock_order(tx, new.id)
        if before.user_id not in (None, new.user_id):
            raise Conflict("the order belongs to another user", code="order_of_another_user")
        now = self._clock.now()
        await repository.add_purchases(tx, new.user_id, skus, now)
        return await self._update_order(tx, before, record_creation(before, new, now))

    async def get_order(self, tx: Transaction, order_id: str) -> Order:
        """Return an order. Raises NotFound."""
        order = await repository.find_order(tx, order_id)
        if order is None:
            raise NotFound("there is no order with this id", code="order_not_found")
        return order

    async def ship_order(
        self, tx: Transaction, order_id: str, *, carrier: str | None, tracking_number: str | None
    ) -> OrderUpdate:
        """Record that an order was shipped. One that is not created yet is notified about once it is."""
        before = await repository.lock_order(tx, order_id)
        after = record_shipment(before, carrier, tracking_number, self._clock.now())
        return await self._update_order(tx, before, after)

    async def deliver_order(self, tx: Transaction, order_id: str) -> OrderUpdate:
        """Record that an order was delivered. One that is not created yet is notified about once it is."""
        before = await repository.lock_order(tx, order_id)
        return await self._update_order(tx, before, record_delivery(before, self._clock.now()))

    async def record_payment(
        self, tx: Transaction, payment_id: str, user_id: str, result: PaymentResult
    ) -> tuple[Payment, Notification | None]:
        """Record the result of an attempt to pay. The notification is None if the result was known.

        Raises ValidationFailed for an unknown user, Conflict if the payment is another user's.
        """
        await self._lock_user(tx, user_id)
        before = await repository.lock_payment(tx, payment_id, user_id)
        if before.user_id != user_id:
            raise Conflict("the payment belongs to another user", code="payment_of_another_user")
        now = self._clock.now()
        after = apply_result(before, result, now)
        if after == before:
            return before, None
        await repository.replace_payment(tx, after)
        request = build_payment_request(after, result, now, self._payment_grace)
        return after, await self._notifier.accept(tx, request)

    async def record_stock(self, tx: Transaction, observed: StockItem) -> tuple[StockItem, Notification | None]:
        """Record a stock level. The notification is None unless the stock has just fallen to the threshold.

        Once the stock has risen far enough, an alert that is not sent yet is withdrawn.
        """
        observed = observed.with_alert_state(None)
        before = await repository.lock_stock_item(tx, observed)
        after = observed.with_alert_state(before)
        if before is not None:
            await repository.replace_stock_item(tx, after)
        was_low = before is not None and before.is_low
        if was_low and not after.is_low:
            await self._notifier.withdraw(tx, build_stock_subject(after.sku))
        if was_low or not after.is_low:
            return after, None
        return after, await self._notifier.accept(tx, build_low_stock_request(after))

    async def add_stock_keeper(self, tx: Transaction, user_id: str) -> None:
        """Make a user receive the alerts about low stock. Raises ValidationFailed for an unknown user."""
        await self._lock_user(tx, user_id)
        await repository.add_stock_keeper(tx, user_id)

    async def remove_stock_keeper(self, tx: Transaction, user_id: str) -> None:
        """Let a user receive no more alerts about low stock. Raises NotFound if the user receives none."""
        if not await repository.remove_stock_keeper(tx, user_id):
            raise NotFound("this user is not a stock keeper", code="stock_keeper_not_found")

    async def record_welcome(
        self, tx: Transaction, user_id: str, *, user_name: str | None, delay: timedelta
    ) -> Notification | None:
        """Welcome a new user, once. None if that was done before. Raises ValidationFailed for an unknown user."""
        await self._lock_user(tx, user_id)
        now = self._clock.now()
        if not await repository.add_welcome(tx, user_id, now):
            return None
        request = NotifyRequest(
            "USER_WELCOME", users(user_id), {"userName": user_name}, send_at=now + delay, source=f"user:{user_id}"
        )
        return await self._notifier.accept(tx, request)

    async def _update_order(self, tx: Transaction, before: Order, after: Order) -> OrderUpdate:
        if after == before:
            return OrderUpdate(before, ())
        await repository.replace_order(tx, after)
        requests = build_order_requests(before, after)
        return OrderUpdate(after, [await self._notifier.accept(tx, request) for request in requests])

    async def _lock_user(self, tx: Transaction, user_id: str) -> None:
        if await self._store.users.missing_ids(tx, [user_id], lock=True):
            raise ValidationFailed.for_field("userId", "is an unknown user; create it with PUT /api/users/{id} first")
