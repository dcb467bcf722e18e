"""Counts messages against the daily caps before a provider is asked, and takes back what no provider took."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

import msgspec
import structlog

from tidings.channels.sms.numbers import PhoneNumber
from tidings.channels.sms.spending import SpendingLimits, describe_refusal, list_amounts
from tidings.errors import BackendError
from tidings.micro_batcher import MicroBatcher
from tidings.model.alert import AlertName
from tidings.model.outcome import Accepted, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.ports.alerts import AlertSink, NoAlerts
from tidings.ports.clock import Clock
from tidings.ports.quotas import QuotaAmount
from tidings.ports.store import Store

log = structlog.get_logger(__name__)


class Reservation(msgspec.Struct, frozen=True):
    """What was counted for one message."""

    amounts: Sequence[QuotaAmount]
    day: date


class SpendingGuard:
    """The daily caps of one installation. All processes count in the database."""

    def __init__(self, store: Store, clock: Clock, limits: SpendingLimits, alerts: AlertSink | None = None) -> None:
        """`alerts` are for operators: one per cap and day."""
        self._store = store
        self._clock = clock
        self._limits = limits
        self._alerts = alerts or NoAlerts()
        #: messages that arrive together share a transaction, whose commits would otherwise wait for each other
        self._consume: MicroBatcher[Reservation, str | None] = MicroBatcher(self._consume_many, workers=1)

    async def reserve(self, number: PhoneNumber, segments: int) -> Reservation | PermanentFailure | RetryLater:
        """Count a message. Returns its final refusal if a cap is used up, a retry while the database is unavailable."""
        now = self._clock.now()
        day = now.astimezone(UTC).date()
        reservation = Reservation(list_amounts(self._limits, number, segments), day)
        if not reservation.amounts:
            return reservation
        try:
            refused = await self._consume(reservation)
        except BackendError as error:
            until = now + timedelta(seconds=error.retry_after)
            return RetryLater(until, f"the caps could not be checked: {error.message}", counts_as_attempt=False)
        if refused is None:
            return reservation
        return self._refuse(next(quota for quota in reservation.amounts if quota.key == refused), day, now)

    async def settle(self, reservation: Reservation, outcome: Outcome) -> None:
        """Take back what was counted for a message that no provider took."""
        if not reservation.amounts or isinstance(outcome, Accepted | Uncertain):
            return
        try:
            async with self._store.transaction() as tx:
                await self._store.quotas.release(tx, reservation.amounts, reservation.day)
        except BackendError as error:
            # the sums stay too high until the end of the day, so that the caps still hold
            log.warning("quota_not_released", keys=[quota.key for quota in reservation.amounts], error=error.message)

    async def _consume_many(self, reservations: Sequence[Reservation]) -> Sequence[str | None]:
        """Count several messages. Returns for each the key of the cap that refuses it, None if it was counted."""
        #: (key, day) → the least amount for which there was no room in this transaction
        refused: dict[tuple[str, date], int] = {}
        results: list[str | None] = []
        async with self._store.transaction() as tx:
            for one in reservations:
                known = next((quota.key for quota in one.amounts if _is_refused(quota, one.day, refused)), None)
                key = known or await self._store.quotas.consume(tx, one.amounts, one.day)
                if key is not None:
                    amount = next(quota.amount for quota in one.amounts if quota.key == key)
                    refused[key, one.day] = min(amount, refused.get((key, one.day), amount))
                results.append(key)
        return results

    def _refuse(self, quota: QuotaAmount, day: date, now: datetime) -> PermanentFailure:
        why = describe_refusal(quota, day)
        midnight = datetime.combine(day + timedelta(days=1), time(), UTC)
        detail = f"{why}; refused messages are dead letters and can be replayed"
        self._alerts.raise_alert(AlertName.SPENDING_CAP_REACHED, quota.key, detail, lasts=midnight - now)
        return PermanentFailure(why, operator_alert=True)


def _is_refused(quota: QuotaAmount, day: date, refused: Mapping[tuple[str, date], int]) -> bool:
    least = refused.get((quota.key, day))
    return least is not None and quota.amount >= least
