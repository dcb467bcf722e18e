"""Pool of connections to one relay. Each connection is used by one coroutine at a time."""

import asyncio
from collections import deque
from typing import Final

import msgspec

from tidings.channels.email.relay import Relay
from tidings.channels.email.smtp_connection import ConnectFailed, SmtpConnection, SmtpTimeouts
from tidings.channels.email.smtp_exchange import Envelope, SmtpExchange, Stage

#: seconds that are kept for a message when it waits for a connection
_MIN_SEND_TIME: Final = 1.0


class PoolLimits(msgspec.Struct, frozen=True):
    """Limits of the connections to one relay."""

    #: open connections at most
    size: int = 10
    #: messages per connection; some relays accept 100
    max_messages: int = 100
    #: seconds after which an unused connection is closed; most relays close it after some minutes
    max_idle: float = 30.0


class SmtpPool:
    """Sends messages over at most `limits.size` connections to one relay."""

    def __init__(
        self,
        relay: Relay,
        *,
        local_hostname: str,
        limits: PoolLimits | None = None,
        timeouts: SmtpTimeouts | None = None,
    ) -> None:
        self.relay = relay
        self._local_hostname = local_hostname
        self._limits = limits or PoolLimits()
        self._timeouts = timeouts or SmtpTimeouts()
        self._tls_context = relay.create_tls_context()
        self._slots = asyncio.Semaphore(self._limits.size)
        #: the most recently used connection is used first, so that the others can end
        self._idle: deque[tuple[SmtpConnection, asyncio.TimerHandle]] = deque()

    @property
    def idle(self) -> int:
        """Number of open connections without a message."""
        return len(self._idle)

    async def send(self, envelope: Envelope, deadline: float) -> SmtpExchange:
        """Send one message until `deadline` in event loop time. Never raises for what the relay does."""
        if not await self._acquire_slot(deadline - _MIN_SEND_TIME):
            why = f"all {self._limits.size} connections to {self.relay.name} are in use"
            return SmtpExchange(Stage.CONNECT, why=why, is_busy=True)
        try:
            return await self._send_on_a_connection(envelope, deadline)
        finally:
            self._slots.release()

    async def _acquire_slot(self, until: float) -> bool:
        """Return whether a slot became free until this event loop time."""
        if not self._slots.locked():
            # does not wait, so it needs no timer
            return await self._slots.acquire()
        try:
            async with asyncio.timeout_at(until):
                return await self._slots.acquire()
        except TimeoutError:
            return False

    def close(self) -> None:
        """Close all idle connections. The caller has awaited its sends."""
        while self._idle:
            connection, timer = self._idle.pop()
            timer.cancel()
            connection.close()

    async def _send_on_a_connection(self, envelope: Envelope, deadline: float) -> SmtpExchange:
        while True:
            connection = self._take_idle()
            is_reused = connection is not None
            if connection is None:
                try:
                    async with asyncio.timeout_at(deadline):
                        connection = await SmtpConnection.open(
                            self.relay, self._timeouts, self._local_hostname, self._tls_context
                        )
                except ConnectFailed as failed:
                    return failed.exchange
                except TimeoutError:
                    return SmtpExchange(Stage.CONNECT, why=f"{self.relay.name} did not answer in time")
            try:
                exchange = await connection.send(envelope, deadline)
            finally:
                self._release(connection)
            if is_reused and _was_closed_while_idle(exchange):
                # the relay took nothing: the message is sent over another connection, and no attempt is spent
                continue
            return exchange

    def _take_idle(self) -> SmtpConnection | None:
        while self._idle:
            connection, timer = self._idle.pop()
            timer.cancel()
            if connection.is_usable:
                return connection
            connection.discard()
        return None

    def _release(self, connection: SmtpConnection) -> None:
        if not connection.is_usable or connection.sent >= self._limits.max_messages:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.call_later(self._limits.max_idle, self._close_unused, connection)))

    def _close_unused(self, connection: SmtpConnection) -> None:
        self._idle = deque(entry for entry in self._idle if entry[0] is not connection)
        connection.close()


def _was_closed_while_idle(exchange: SmtpExchange) -> bool:
    """Whether the relay ended a used connection before it took anything of the message."""
    if exchange.stage is not Stage.MAIL:
        return False
    return exchange.is_disconnected or (exchange.reply is not None and exchange.reply.code == 421)
