"""Records the epochs of rooms in the database, and notifies hosts of their ends.

The end of an epoch and the notification about it are one transaction, and a compare-and-set on the epoch's row comes
first. So an end that several processes report is recorded, and notified, once.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog

from tidings.errors import ValidationFailed
from tidings.model.request import NotifyRequest
from tidings.model.stream import StreamEpoch, StreamEvent, StreamSettings
from tidings.packs.streams import notices, repository
from tidings.packs.streams.notices import NoNotice, Notice, NotifyLater
from tidings.ports.clock import Clock
from tidings.ports.pack_context import NotificationAcceptor
from tidings.ports.store import Store, Transaction
from tidings.ports.transaction import retry_on_conflict

log = structlog.get_logger(__name__)

#: hosts whose grouped notices are sent per call
MAX_HOSTS = 50
#: transaction, event id → the event of a stream, None if there is none
FindEvent = Callable[[Transaction, str], Awaitable[StreamEvent | None]]
#: transaction, event id, user id → whether the user has an active ticket
HasTicket = Callable[[Transaction, str, str], Awaitable[bool]]


class StreamEpochs:
    """The epochs of rooms, in transactions of their own. Raises BackendError if the database does not respond."""

    def __init__(
        self,
        store: Store,
        notifier: NotificationAcceptor,
        clock: Clock,
        find_event: FindEvent,
        has_ticket: HasTicket,
    ) -> None:
        """find_event, has_ticket: look up the event of a stream, and its tickets, in the pack that owns events."""
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self._find_event = find_event
        self._has_ticket = has_ticket

    async def find(self, event_id: str) -> tuple[StreamEvent | None, StreamSettings]:
        """Return the event of a stream, None if there is none, and the settings of its room."""
        if "\0" in event_id:
            # no database stores it
            return None, StreamSettings()
        async with self._store.read_snapshot() as tx:
            event = await self._find_event(tx, event_id)
            host_id = None if event is None else event.host_id
            return event, await repository.load_settings(tx, event_id, host_id)

    async def has_ticket(self, event_id: str, user_id: str) -> bool:
        """Return whether a user has an active ticket of an event."""
        async with self._store.read_once() as tx:
            return await self._has_ticket(tx, event_id, user_id)

    async def begin(self, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the open epochs of events; those without one begin their next one."""

        async def work() -> Mapping[str, int]:
            now = self._clock.now()
            async with self._store.transaction() as tx:
                # in one order, so that two processes do not wait for each other
                return {event_id: await repository.open_epoch(tx, event_id, now) for event_id in sorted(event_ids)}

        return await retry_on_conflict(work)

    async def find_open(self, event_id: str) -> int | None:
        """Return the open epoch of an event, None if there is none."""
        async with self._store.read_once() as tx:
            return await repository.find_open_epoch(tx, event_id)

    async def list_open_events(self, after: str, limit: int) -> Sequence[str]:
        """Return the ids of the events with an open epoch, in order."""
        async with self._store.read_once() as tx:
            return [epoch.event_id for epoch in await repository.list_open_epochs(tx, after, limit)]

    async def end(self, event_id: str, epoch: int, silent_for: timedelta) -> StreamEvent | None:
        """Record a decided end, and notify the host now or later. Any number of calls have the effect of one.

        silent_for: since the last sign of life of the last viewer. Returns the event if this call recorded the end.
        """
        return await retry_on_conflict(lambda: self._end(event_id, epoch, silent_for))

    async def send_due_notices(self) -> int:
        """Accept the grouped notices that are due; return how many."""
        now = self._clock.now()
        async with self._store.read_once() as tx:
            due = await repository.list_due_notices(tx, now, MAX_HOSTS)
        sent = 0
        for host_id in dict.fromkeys(epoch.host_id for epoch in due if epoch.host_id is not None):
            async with self._store.transaction() as tx:
                sent += await self._send_grouped(tx, host_id, now)
        return sent

    async def purge(self) -> None:
        """Delete expired tickets."""
        async with self._store.transaction() as tx:
            await repository.purge_tickets(tx, self._clock.now())

    async def _end(self, event_id: str, epoch: int, silent_for: timedelta) -> StreamEvent | None:
        now = self._clock.now()
        async with self._store.transaction() as tx:
            if not await repository.end_epoch(tx, event_id, epoch, last_seen_at=now - silent_for, now=now):
                return None
            event = await self._find_event(tx, event_id)
            host_id = None if event is None else event.host_id
            recent: Sequence[StreamEpoch] = ()
            has_host = False
            if host_id is not None:
                has_host = bool(await repository.filter_users(tx, [host_id]))
                recent = await repository.list_recent_ends(tx, host_id, now - notices.FLAP_WINDOW)
            decision = notices.decide_notice(event, has_host=has_host, recent=recent, event_id=event_id, now=now)
            if isinstance(decision, NoNotice):
                log.warning("stream_end_not_notified", event_id=event_id, epoch=epoch, reason=decision.reason.value)
                await repository.record_notice(tx, event_id, [epoch], notice=decision.reason, host_id=host_id)
                return event or StreamEvent(event_id, "", None, is_public=False)
            if isinstance(decision, NotifyLater):
                await repository.record_notice(
                    tx, event_id, [epoch], notice=Notice.GROUPED, host_id=host_id, due_at=decision.due_at
                )
                return event
            assert event is not None, "an end without an event is not notified"
            # first the host: the audience of the notification reads it
            await repository.record_notice(tx, event_id, [epoch], notice=Notice.SENT, host_id=host_id)
            notification_id = await self._accept(tx, notices.build_end_notice(event, epoch, now), event_id)
            notice = Notice.SENT if notification_id else Notice.NOT_ACCEPTED
            await repository.record_notice(
                tx, event_id, [epoch], notice=notice, host_id=host_id, notification_id=notification_id
            )
        log.info("stream_ended", event_id=event_id, epoch=epoch)
        return event

    async def _send_grouped(self, tx: Transaction, host_id: str, now: datetime) -> bool:
        """Accept one notice about all ends of a host that wait, except of streams that are live again."""
        by_event: dict[str, list[StreamEpoch]] = {}
        for epoch in await repository.list_waiting_notices(tx, host_id):
            by_event.setdefault(epoch.event_id, []).append(epoch)
        if all(
            epoch.notice_due_at is None or epoch.notice_due_at > now for ends in by_event.values() for epoch in ends
        ):
            # another process sent it
            return False
        ends: list[tuple[StreamEvent, int, int]] = []
        for event_id, epochs in by_event.items():
            event = await self._find_event(tx, event_id)
            is_live = await repository.find_open_epoch(tx, event_id) is not None
            if event is None or is_live:
                reason = Notice.LIVE_AGAIN if is_live else Notice.EVENT_MISSING
                log.info("stream_end_not_notified", event_id=event_id, epoch=epochs[-1].epoch, reason=reason.value)
                await repository.record_notice(tx, event_id, _numbers(epochs), notice=reason, host_id=host_id)
            else:
                ends.append((event, epochs[-1].epoch, len(epochs)))
        if not ends:
            return False
        notification_id = await self._accept(tx, notices.build_grouped_notice(ends, now), ends[0][0].id)
        for event, _, _ in ends:
            notice = Notice.SENT if notification_id else Notice.NOT_ACCEPTED
            await repository.record_notice(
                tx,
                event.id,
                _numbers(by_event[event.id]),
                notice=notice,
                host_id=host_id,
                notification_id=notification_id,
            )
        return notification_id is not None

    async def _accept(self, tx: Transaction, request: NotifyRequest, event_id: str) -> str | None:
        """Return the id of the accepted notification, None if it was refused. The end is recorded all the same."""
        try:
            async with self._store.savepoint(tx):
                return (await self._notifier.accept(tx, request)).id
        except ValidationFailed as error:
            log.error("stream_notice_refused", event_id=event_id, error=error.message)
            return None


def _numbers(epochs: Sequence[StreamEpoch]) -> list[int]:
    return [epoch.epoch for epoch in epochs]
