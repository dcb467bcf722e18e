"""A fake SMTP relay: a real server on 127.0.0.1 that accepts, refuses, limits, hangs and loses replies."""

import asyncio
from types import TracebackType
from typing import Self

from tidings.testing.fake_providers import (
    AcceptMessage,
    Behaviour,
    HangConnection,
    LimitRate,
    LoseReply,
    RefuseMessage,
)


class FakeRelay:
    """An SMTP server. Use it as `async with FakeRelay() as relay`.

    A refusal answers `RCPT` with 550 5.1.1, a limit answers `MAIL` with 421 4.7.0.
    """

    def __init__(self) -> None:
        self.port = 0
        #: the messages that it took, also those whose reply was lost
        self.messages: list[bytes] = []
        #: number of `MAIL` commands
        self.transactions = 0
        self._behaviour: Behaviour = AcceptMessage()
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    def set_behaviour(self, behaviour: Behaviour) -> None:
        """Treat every further message like this."""
        self._behaviour = behaviour

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.create_task(self._serve(reader, writer))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 relay.invalid ESMTP\r\n")
            while command := (await reader.readline())[:4].strip().upper():
                if command == b"MAIL":
                    self.transactions += 1
                    if isinstance(self._behaviour, HangConnection):
                        # returns when the client gives up
                        await reader.read()
                        return
                if command == b"QUIT":
                    return
                writer.write(self._choose_reply(command))
                if command == b"DATA" and not isinstance(self._behaviour, RefuseMessage | LimitRate):
                    self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                    if isinstance(self._behaviour, LoseReply):
                        return
                    writer.write(f"250 2.0.0 Ok: queued as Q{len(self.messages)}\r\n".encode())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.transport.abort()

    def _choose_reply(self, command: bytes) -> bytes:
        match command, self._behaviour:
            case b"EHLO", _:
                return b"250-relay.invalid\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n"
            case b"AUTH", _:
                return b"235 2.7.0 any password is right\r\n"
            case b"MAIL", LimitRate():
                return b"421 4.7.0 too many messages\r\n"
            case b"RCPT", RefuseMessage():
                return b"550 5.1.1 no such user\r\n"
            case b"DATA", RefuseMessage() | LimitRate():
                return b"503 5.5.1 no valid recipients\r\n"
            case b"DATA", _:
                return b"354 End with a dot\r\n"
            case _:
                return b"250 2.0.0 Ok\r\n"
