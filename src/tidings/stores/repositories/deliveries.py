"""Deliveries: stores plans and outcomes. The base classes claim, batch and list deliveries."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from tidings.model.contact_point import ContactPointState
from tidings.model.delivery import AttemptResult, DeliveryState, HoldRecord, PlannedDelivery, SkipRecord
from tidings.model.ids import new_id
from tidings.model.outcome import InvalidTarget
from tidings.model.status_event import build_outcome_event, build_skip_event
from tidings.model.subscription import SubscriptionState
from tidings.model.suppression import Suppression
from tidings.ports.store import TargetVersion, Transaction
from tidings.stores.engine.field_encryption import FieldCipher
from tidings.stores.engine.transaction import connection_of
from tidings.stores.repositories.contact_points import PUSH_CHANNEL, SqlContactPoints
from tidings.stores.repositories.delivery_batches import DeliveryBatches
from tidings.stores.repositories.delivery_claims import DeliveryClaims
from tidings.stores.repositories.delivery_history import DeliveryHistory
from tidings.stores.repositories.delivery_mapping import (
    INSERT_ATTEMPTS,
    INSERT_DELIVERIES,
    INSERT_SKIPS,
    UPDATE_OUTCOMES,
    UPDATE_OUTCOMES_RETURNING,
    attempt_row,
    delivery_row,
    outcome_row,
    skip_row,
)
from tidings.stores.repositories.ended_deliveries import EndedDeliveries
from tidings.stores.repositories.push_subscriptions import SqlSubscriptions
from tidings.stores.repositories.status_events import SqlStatusEvents
from tidings.stores.repositories.suppressions import SqlSuppressions
from tidings.stores.sql.json_params import encode_rows

#: action → state of a push subscription
_STATE_OF_ACTION = {"delete": SubscriptionState.GONE, "rebind": SubscriptionState.REBIND}


class SqlDeliveries(DeliveryClaims, DeliveryBatches, DeliveryHistory):
    """Implements `ports.store.Deliveries`."""

    def __init__(
        self,
        cipher: FieldCipher,
        subscriptions: SqlSubscriptions,
        contact_points: SqlContactPoints,
        status_events: SqlStatusEvents,
        suppressions: SqlSuppressions,
        ended_deliveries: EndedDeliveries,
    ) -> None:
        super().__init__(cipher, ended_deliveries)
        self._status_events = status_events
        self._subscriptions = subscriptions
        self._contact_points = contact_points
        self._suppressions = suppressions

    async def add(
        self, tx: Transaction, planned: Sequence[PlannedDelivery], skipped: Sequence[SkipRecord], now: datetime
    ) -> None:
        if planned:
            await connection_of(tx).execute(
                INSERT_DELIVERIES, {"rows": encode_rows([delivery_row(delivery) for delivery in planned]), "now": now}
            )
        if skipped:
            await connection_of(tx).execute(
                INSERT_SKIPS, {"rows": encode_rows([skip_row(skip, now) for skip in skipped]), "now": now}
            )
        if skipped and self._status_events.is_enabled:
            await self._status_events.add(tx, [build_skip_event(skip, now) for skip in skipped], now)

    async def record(self, tx: Transaction, results: Sequence[AttemptResult], now: datetime) -> int:
        if not results:
            return 0
        # in the order of ids, in which an erasure locks the rows, too
        outcomes = encode_rows([outcome_row(result) for result in sorted(results, key=attrgetter("delivery_id"))])
        applied = await self._update_outcomes(tx, outcomes, results, now)
        attempts = [
            attempt_row(result) for result in results if not isinstance(result.outcome, SkipRecord | HoldRecord)
        ]
        if attempts:
            await connection_of(tx).execute(
                INSERT_ATTEMPTS[connection_of(tx).dialect.name], {"rows": encode_rows(attempts)}
            )
        await self._mark_invalid_targets(tx, results, now)
        return applied

    async def _update_outcomes(
        self, tx: Transaction, outcomes: str, results: Sequence[AttemptResult], now: datetime
    ) -> int:
        """Record outcomes, and the events of those that are not rejected. Returns how many are not."""
        if not self._status_events.is_enabled:
            return (await connection_of(tx).execute(UPDATE_OUTCOMES, {"rows": outcomes, "now": now})).rowcount
        updated = await connection_of(tx).execute(UPDATE_OUTCOMES_RETURNING, {"rows": outcomes, "now": now})
        states = {row.id: DeliveryState(row.state) for row in updated}
        events = [
            build_outcome_event(result, states[result.delivery_id], now)
            for result in results
            if result.delivery_id in states
        ]
        await self._status_events.add(tx, [event for event in events if event is not None], now)
        return len(states)

    async def _mark_invalid_targets(self, tx: Transaction, results: Sequence[AttemptResult], now: datetime) -> None:
        results = [result for result in results if isinstance(result.outcome, InvalidTarget)]
        if not results:
            return
        devices: defaultdict[SubscriptionState, list[TargetVersion]] = defaultdict(list)
        points: list[TargetVersion] = []
        for result in results:
            assert isinstance(result.outcome, InvalidTarget), "as selected"
            state = _STATE_OF_ACTION.get(result.outcome.action)
            if state is None or result.target_id is None or result.target_version is None:
                continue
            tried = TargetVersion(result.target_id, result.target_version)
            if result.channel == PUSH_CHANNEL:
                devices[state].append(tried)
            else:
                # only browsers renew their keys, so nothing else is bound again
                points.append(tried)
        for state, versions in devices.items():
            await self._subscriptions.set_state_of_versions(tx, versions, state, now)
        await self._contact_points.set_state_of_versions(tx, points, ContactPointState.GONE, now)
        for result in results:
            if isinstance(result.outcome, InvalidTarget) and result.outcome.action == "suppress":
                await self._suppress(tx, result, result.outcome, now)

    async def _suppress(self, tx: Transaction, result: AttemptResult, outcome: InvalidTarget, now: datetime) -> None:
        """Suppress the address of a contact point, as the answer to an attempt showed."""
        if result.target_id is None:
            return
        point = await self._contact_points.get_locked(tx, result.user_id, result.target_id)
        if point is not None:
            suppression = Suppression(
                new_id(now),
                result.channel,
                outcome.reason,
                point.address,
                now,
                result.finished_at,
                sender=outcome.sender,
                source="send",
            )
            await self._suppressions.add(tx, suppression)
