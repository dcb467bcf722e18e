"""The mock push service itself: a listening socket over intake and control, in this process or as its own."""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tidings.errors import ConfigError, Invalid
from tidings.testing.mock_push.base64url import decode
from tidings.testing.mock_push.behaviour import Behaviour, Rule
from tidings.testing.mock_push.connection import Connection, Request
from tidings.testing.mock_push.control import Control, Received
from tidings.testing.mock_push.devices import DEFAULT_SEED, SubscriptionJson
from tidings.testing.mock_push.intake import Intake
from tidings.testing.mock_push.ledger import Ledger, Stats
from tidings.testing.mock_push.plays import Answer, json_response
from tidings.testing.mock_push.vapid import VapidCheck


@dataclass(frozen=True, slots=True)
class MockPushOptions:
    """How the service runs. The defaults verify every message on a free loopback port."""

    host: str = "127.0.0.1"
    #: 0 = any free port
    port: int = 0
    #: what the simulated devices' keys are derived from
    seed: bytes = DEFAULT_SEED
    #: share of the devices whose messages are decrypted and checked, 0 to 1; 0 is the fast mode
    verify_share: float = 1.0
    #: messages kept for `/control/messages`
    keep: int = 1000
    #: first letters of the devices whose receipts are kept with their time, for `/control/times`; empty = none
    timed: str = ""
    #: base64url public keys every device was subscribed with; empty = any key is taken
    vapid_keys: Sequence[str] = ()
    #: origins accepted as `aud` beside the service's own
    origins: Sequence[str] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: seconds between two bytes of a dripping answer
    drip_seconds: float = 1.0
    #: end when standard input ends: with a pipe from the parent, the service never outlives it
    until_stdin_closes: bool = False


class MockPush:
    """The service in this process: `async with MockPush() as push: … push.origin, push.stats(), push.messages`."""

    origin: str

    def __init__(self, options: MockPushOptions | None = None, *, now: Callable[[], float] = time.time) -> None:
        """Arguments: options; now — Unix time in seconds, for tests of expiry."""
        self._options = options or MockPushOptions()
        self._now = now
        self._connections: set[Connection] = set()

    async def __aenter__(self) -> Self:
        """Listen. Raises ConfigError when the address is taken or a key or certificate cannot be read."""
        options = self._options
        keys = [_vapid_key(text) for text in options.vapid_keys]
        context = _tls(options)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self._respond, self._connections),
                options.host,
                options.port,
                ssl=context,
                backlog=1024,
                start_serving=False,
            )
        except OSError as error:
            raise ConfigError(
                "port", f"{options.host}:{options.port} cannot be used: {error.strerror or error}"
            ) from None
        host = f"[{options.host}]" if ":" in options.host else options.host
        port = self._server.sockets[0].getsockname()[1]
        self.origin = f"{'https' if context else 'http'}://{host}:{port}"
        self._compose(keys)
        await self._server.start_serving()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in tuple(self._connections):
            await connection.stop()
        await self._server.wait_closed()
        self._ledger.close()

    def _compose(self, keys: Sequence[bytes]) -> None:
        options = self._options
        self._ledger = Ledger(options.keep, timed=options.timed)
        self._behaviour = Behaviour()
        vapid = VapidCheck((self.origin, *options.origins), keys)
        self._control = Control(
            origin=self.origin, seed=options.seed, ledger=self._ledger, behaviour=self._behaviour, vapid=vapid
        )
        self._vapid = vapid
        self._intake = Intake(
            origin=self.origin,
            seed=options.seed,
            vapid=vapid,
            behaviour=self._behaviour,
            ledger=self._ledger,
            verify_share=options.verify_share,
            drip_seconds=options.drip_seconds,
            now=self._now,
        )

    def _respond(self, request: Request) -> Answer:
        path, _, query = request.target.partition(b"?")
        if path.startswith(b"/push/"):
            if request.method == b"POST":
                return self._intake.push(path[6:], request.headers, request.body)
            return json_response(405, {"reason": "method", "message": "a push is sent with POST"})
        method = request.method.decode("ascii")
        if path.startswith(b"/control/"):
            return self._control.answer(
                method, path[9:].decode("ascii", "replace"), query.decode("ascii", "replace"), request.body
            )
        if path == b"/healthz" and method == "GET":
            return json_response(200, {"status": "ok"})
        return json_response(
            404, {"reason": "unknown_route", "message": "try /push/{device}, /control/stats, /healthz"}
        )

    # --- what a test asks in the same process

    def stats(self) -> Stats:
        """Return the counters of this moment."""
        return self._ledger.stats()

    @property
    def messages(self) -> Sequence[Received]:
        """The kept messages, decrypted, oldest first."""
        return [self._control.open(m) for m in self._ledger.arrived(limit=self._options.keep)]

    def receipts(self) -> Iterator[tuple[str, str, int]]:
        """Yield (device, topic, count) of every accepted message."""
        for chunk in self._ledger.receipts():
            yield from chunk

    def subscription(self, device_id: str) -> SubscriptionJson:
        """Return the subscription of a simulated device of this service."""
        return self._control.subscription(device_id)

    def bind(self, device_id: str, vapid_key: str) -> None:
        """Say which public key (base64url) a device was subscribed with. Raises ConfigError for a malformed one."""
        self._vapid.bind(device_id, _vapid_key(vapid_key))

    def behave(self, *rules: Rule) -> None:
        """Answer by these rules from now on; none = take every good message. Raises Invalid."""
        self._behaviour.set_rules(rules)

    def reset(self) -> None:
        """Forget all messages, counters, rules and bound keys."""
        self._control.reset()

    async def wait_for(self, *, timeout: float = 10.0, **reached: int) -> Stats:  # noqa: ASYNC109  # part of the kit
        """Return the counters once e.g. `distinct=5` holds: received, accepted, distinct or verified.

        Arguments: timeout — seconds. Raises TimeoutError, Invalid for another counter.
        """
        async with asyncio.timeout(timeout):
            for counter, number in reached.items():
                if counter not in ("received", "accepted", "distinct", "verified"):
                    raise Invalid.field(counter, "is no counter")
                await self._ledger.wait(counter, number)
        return self.stats()


def print_origin(origin: str) -> None:
    """Say on standard output, as one JSON line, where the service listens."""
    sys.stdout.write(json.dumps({"origin": origin}) + "\n")
    sys.stdout.flush()


async def serve(options: MockPushOptions, ready: Callable[[str], None] = print_origin) -> None:
    """Run the service until SIGTERM, SIGINT or, if asked for, the end of standard input.

    Arguments: ready — called with the origin once connections are accepted. Raises ConfigError.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    if options.until_stdin_closes:
        _watch_stdin(loop, stop)
    try:
        async with MockPush(options) as push:
            ready(push.origin)
            await stop.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(stop.set)

    # A thread, because an event loop cannot watch every kind of standard input (a file, /dev/null).
    threading.Thread(target=wait, name="stdin-watch", daemon=True).start()


def _tls(options: MockPushOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise ConfigError("tls-cert", "is missing; a key alone gives no TLS")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("tls-cert", f"{options.tls_cert} cannot be used with its key: {error}") from None
    return context


def _vapid_key(text: str) -> bytes:
    try:
        key = decode(text)
    except ValueError as error:
        raise ConfigError("vapid-key", str(error)) from None
    if len(key) != 65:
        raise ConfigError("vapid-key", f"must be an uncompressed P-256 point of 65 bytes, it has {len(key)}")
    return key
