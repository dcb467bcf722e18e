"""Sends status events of notifications and deliveries to the host product, signed as webhooks are.

Events are read from the database, where they were stored with their cause, and removed once the endpoint confirmed
them. They are sent at least once, in no promised order.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog

from tidings.channels.http.exchange import Exchange, HttpResponse
from tidings.channels.http.origin import Origin
from tidings.channels.http.retry_policy import RetryPolicy
from tidings.channels.http.transport import HttpTransport
from tidings.channels.webhook.signing import sign_message
from tidings.model.alert import AlertName
from tidings.model.status_event import StatusEventBatch
from tidings.ports.alerts import AlertSink
from tidings.ports.clock import Clock
from tidings.ports.store import Store

log = structlog.get_logger(__name__)

#: a batch that a killed worker was sending is sent again after this time
HIDDEN_FOR = timedelta(seconds=60)
#: batches claimed together, and requests in flight
BATCHES_PER_CLAIM = 20
MAX_IN_FLIGHT = 4
#: pause after a failure, so that an endpoint that is down gets few requests
PAUSE = timedelta(seconds=5)
ALERT_LASTS = timedelta(days=1)


class StatusEventSender:
    """Posts due batches of events to one endpoint. Several workers may run one each."""

    def __init__(
        self,
        store: Store,
        transport: HttpTransport,
        clock: Clock,
        alerts: AlertSink,
        *,
        url: str,
        origin: Origin,
        keys: Sequence[bytes],
        retry_policy: RetryPolicy,
        jitter: Callable[[], float],
    ) -> None:
        """`url` has the checked `origin`; each of `keys` signs. The sender closes the transport."""
        self._store = store
        self._transport = transport
        self._clock = clock
        self._alerts = alerts
        self._url = url
        self._origin = origin
        self._keys = keys
        self._retry_policy = retry_policy
        self._jitter = jitter
        self._in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._paused_until: datetime | None = None

    async def send_events(self) -> int:
        """Send what is due. Returns the number of confirmed batches. Raises BackendError if the database fails."""
        confirmed = 0
        while not self._is_paused() and (batches := await self._claim()):
            # each is completed: a failure of the database for one batch must not leave others unrecorded
            results = await asyncio.gather(*map(self._send, batches), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                confirmed += result
        return confirmed

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    def _is_paused(self) -> bool:
        return self._paused_until is not None and self._clock.now() < self._paused_until

    async def _claim(self) -> Sequence[StatusEventBatch]:
        now = self._clock.now()
        async with self._store.read_once() as tx:
            if not await self._store.status_events.has_due(tx, now):
                return []
        async with self._store.transaction() as tx:
            return await self._store.status_events.claim_due(
                tx, now, hidden_until=now + HIDDEN_FOR, limit=BATCHES_PER_CLAIM
            )

    async def _send(self, batch: StatusEventBatch) -> bool:
        """Send a batch and store the result. Returns whether the endpoint confirmed it."""
        async with self._in_flight:
            exchange = await self._post(batch)
        now = self._clock.now()
        failure = _describe_failure(exchange)
        delay = self._retry_policy.find_delay(batch.attempts, self._jitter())
        async with self._store.transaction() as tx:
            if failure is not None and delay is not None:
                await self._store.status_events.defer(tx, batch.id, now + delay)
            else:
                await self._store.status_events.remove(tx, [batch.id])
        if failure is None:
            self._paused_until = None
            return True
        self._paused_until = now + PAUSE
        log.warning("status_events_not_sent", events=batch.count, attempt=batch.attempts, why=failure)
        if delay is None:
            self._alerts.raise_alert(
                AlertName.STATUS_EVENTS_LOST,
                self._origin.host,
                f"status events were given up after {batch.attempts} attempts: {failure}; correct the endpoint of "
                "TIDINGS_WEBHOOK__EVENTS_URL, and read the states from GET /api/notifications/{id}/deliveries",
                lasts=ALERT_LASTS,
            )
        return False

    async def _post(self, batch: StatusEventBatch) -> Exchange:
        now = self._clock.now()
        created_at = batch.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = b'{"type":"status.events","timestamp":"%s","data":{"events":%s}}' % (created_at.encode(), batch.events)
        headers = {"content-type": "application/json", **sign_message(self._keys, batch.id, now, body)}
        return await self._transport.post(self._origin, self._url, headers, body)


def _describe_failure(exchange: Exchange) -> str | None:
    """Return why the endpoint did not confirm, None if it did."""
    if not isinstance(exchange, HttpResponse):
        return exchange.why
    return None if 200 <= exchange.status < 300 else f"the endpoint answered {exchange.status}"
