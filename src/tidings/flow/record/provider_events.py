"""Stores the events of providers, and applies what follows from them, in one transaction per call of a provider."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from tidings.flow.record.suppression_policy import (
    Effect,
    LiftBounces,
    LiftOptOuts,
    MarkGone,
    ReportReply,
    Suppress,
    decide_effect,
)
from tidings.model.alert import AlertName
from tidings.model.ids import new_id
from tidings.model.receipt import EventCause, ProviderEvent, Receipt, compute_status
from tidings.model.suppression import (
    ALL,
    BOUNCE_REASONS,
    OPT_OUT_REASONS,
    SoftBouncePolicy,
    Suppression,
    SuppressionFilter,
    SuppressionReason,
)
from tidings.ports.alerts import AlertSink
from tidings.ports.clock import Clock
from tidings.ports.store import Store, Transaction
from tidings.ports.transaction import retry_on_conflict

log = structlog.get_logger(__name__)

#: events about one address that are read to count its soft bounces
_MAX_HISTORY = 200
#: how long an answer that needs a person is shown
REPLY_ALERT_LASTS = timedelta(days=1)


class ProviderEventRecorder:
    """Records verified events. A repeat is counted and has no further effect; neither has their order."""

    def __init__(
        self, store: Store, clock: Clock, alerts: AlertSink, on_event: Callable[[ProviderEvent], None]
    ) -> None:
        """on_event: called with each event that was stored and is not a repeat."""
        self._store = store
        self._clock = clock
        self._alerts = alerts
        self._on_event = on_event

    async def record(self, events: Sequence[ProviderEvent], policy: SoftBouncePolicy) -> int:
        """Store events with their effects. Returns how many are new. Raises BackendError, with nothing stored."""
        new = await retry_on_conflict(partial(self._store_events, events, policy))
        for event, effect in new:
            self._on_event(event)
            if isinstance(effect, ReportReply):
                self._report_reply(event)
            elif effect is not None:
                log.info(
                    "provider_event_applied",
                    channel=event.channel,
                    provider=event.provider,
                    cause=event.cause.value,
                    effect=type(effect).__name__,
                )
        return len(new)

    async def _store_events(
        self, events: Sequence[ProviderEvent], policy: SoftBouncePolicy
    ) -> Sequence[tuple[ProviderEvent, Effect | None]]:
        new: list[tuple[ProviderEvent, Effect | None]] = []
        async with self._store.transaction() as tx:
            # in one order of addresses, so that two calls of a provider do not deadlock
            for event in sorted(events, key=lambda event: (event.channel, event.recipient or "", event.event_id)):
                if await self._store.receipts.add(tx, event, self._clock.now()):
                    new.append((event, await apply_event(self._store, tx, event, policy, self._clock.now())))
            for channel in sorted({event.channel for event in events}):
                await self._store.receipts.record_event(tx, channel)
        return new

    def _report_reply(self, event: ProviderEvent) -> None:
        self._alerts.raise_alert(
            AlertName.REPLY_UNCLEAR,
            event.sender or event.channel,
            f"a recipient's answer needs a person ({event.cause.value}); read it with "
            f"GET /api/provider-events?channel={event.channel}&cause={event.cause.value}",
            lasts=REPLY_ALERT_LASTS,
        )


async def apply_event(
    store: Store, tx: Transaction, event: ProviderEvent, policy: SoftBouncePolicy, now: datetime
) -> Effect | None:
    """Change the suppressions and contact points of the address of a new event. Returns what was changed."""
    if event.recipient is None:
        return None
    history = (
        await _load_history(store, tx, event, event.occurred_at - policy.within, now)
        if event.cause is EventCause.SOFT_BOUNCE
        else ()
    )
    status = compute_status(await store.receipts.list_of_message(tx, event))
    effect = decide_effect(event, status, history, policy, now)
    lift = partial(
        store.suppressions.lift_matching,
        tx,
        event.channel,
        event.recipient,
        observed_before=event.occurred_at,
        now=now,
    )
    match effect:
        case Suppress(reason=reason, sender=sender, expires_at=expires_at):
            suppression = Suppression(
                new_id(now),
                event.channel,
                reason,
                event.recipient,
                now,
                event.occurred_at,
                sender=sender,
                source=event.provider,
                expires_at=expires_at,
            )
            await store.suppressions.add(tx, suppression)
        case LiftBounces():
            await lift(BOUNCE_REASONS, senders=None, reason="a later delivery was confirmed")
        case LiftOptOuts(sender=sender):
            await lift(OPT_OUT_REASONS, senders={sender, ALL}, reason="the recipient answered START")
        case MarkGone():
            await store.contact_points.mark_gone(tx, event.channel, event.recipient, now)
    return effect


async def _load_history(
    store: Store, tx: Transaction, event: ProviderEvent, since: datetime, now: datetime
) -> Sequence[Receipt]:
    """Return the events about an address, the newest first. After a lift, its bounces count anew."""
    assert event.recipient is not None, "the caller checked"
    selected = SuppressionFilter(event.channel, event.recipient, SuppressionReason.SOFT_BOUNCES, include_ended=True)
    for lifted in await store.suppressions.page(tx, selected, before=None, limit=1, now=now):
        since = max(since, lifted.lifted_at or since)
    return await store.receipts.list_of_address(tx, event.channel, event.recipient, since=since, limit=_MAX_HISTORY)
