"""The mock push service: a server for the push route and the control API, in this process or a separate one."""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tidings.errors import ConfigError, ValidationFailed
from tidings.mockpush.base64url import decode
from tidings.mockpush.behaviour import Behaviour, ResponseRule
from tidings.mockpush.connection import Connection, Request
from tidings.mockpush.control import ControlApi, ReceivedMessage
from tidings.mockpush.devices import DEFAULT_SEED, SubscriptionJson
from tidings.mockpush.push_route import PushRoute
from tidings.mockpush.receipt_log import ReceiptLog, Stats
from tidings.mockpush.responses import MockResponse, build_json_response
from tidings.mockpush.stop_signal import stop_on_signal
from tidings.mockpush.vapid import VapidVerifier


@dataclass(frozen=True, slots=True)
class MockPushOptions:
    """Options of the service. The defaults verify every message and use a free loopback port."""

    host: str = "127.0.0.1"
    #: 0 = any free port
    port: int = 0
    #: seed from which the simulated devices' keys are derived
    seed: bytes = DEFAULT_SEED
    #: share of the devices whose messages are decrypted and validated, 0 to 1; 0 is the fast mode
    verify_share: float = 1.0
    #: messages kept for `/control/messages`
    keep: int = 1000
    #: prefix of the device ids whose receipts are kept with their time, for `/control/times`; empty = none
    timed: str = ""
    #: base64url public keys with which every device was subscribed; empty = any key is accepted
    vapid_keys: Sequence[str] = ()
    #: origins accepted as `aud` in addition to the service's own
    origins: Sequence[str] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: seconds between two bytes of a dripping response
    drip_seconds: float = 1.0
    #: stop when standard input closes: with a pipe from the parent, the service never outlives it
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
        """Start listening. Raises ConfigError if the address is in use, or a key or certificate cannot be read."""
        options = self._options
        keys = [_decode_vapid_key(text) for text in options.vapid_keys]
        context = _create_tls_context(options)
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
        self._receipt_log.close()

    def _compose(self, keys: Sequence[bytes]) -> None:
        options = self._options
        self._receipt_log = ReceiptLog(options.keep, timed=options.timed)
        self._behaviour = Behaviour()
        vapid = VapidVerifier((self.origin, *options.origins), keys)
        self._control = ControlApi(
            origin=self.origin, seed=options.seed, receipt_log=self._receipt_log, behaviour=self._behaviour, vapid=vapid
        )
        self._vapid = vapid
        self._push_route = PushRoute(
            origin=self.origin,
            seed=options.seed,
            vapid=vapid,
            behaviour=self._behaviour,
            receipt_log=self._receipt_log,
            verify_share=options.verify_share,
            drip_seconds=options.drip_seconds,
            now=self._now,
        )

    def _respond(self, request: Request) -> MockResponse:
        path, _, query = request.target.partition(b"?")
        if path.startswith(b"/push/"):
            if request.method == b"POST":
                return self._push_route.handle(path[6:], request.headers, request.body)
            return build_json_response(405, {"reason": "method", "message": "a push is sent with POST"})
        method = request.method.decode("ascii")
        if path.startswith(b"/control/"):
            return self._control.handle(
                method, path[9:].decode("ascii", "replace"), query.decode("ascii", "replace"), request.body
            )
        if path == b"/healthz" and method == "GET":
            return build_json_response(200, {"status": "ok"})
        return build_json_response(
            404, {"reason": "unknown_route", "message": "try /push/{device}, /control/stats, /healthz"}
        )

    # --- interface for tests in the same process

    def stats(self) -> Stats:
        """Return the current counters."""
        return self._receipt_log.stats()

    @property
    def messages(self) -> Sequence[ReceivedMessage]:
        """The kept messages, decrypted, oldest first."""
        return [self._control.decrypt_message(m) for m in self._receipt_log.list_messages(limit=self._options.keep)]

    def receipts(self) -> Iterator[tuple[str, str, int]]:
        """Yield (device, topic, count) of every accepted message."""
        for chunk in self._receipt_log.receipts():
            yield from chunk

    def subscription(self, device_id: str) -> SubscriptionJson:
        """Return the subscription of a simulated device of this service."""
        return self._control.subscription(device_id)

    def bind(self, device_id: str, vapid_key: str) -> None:
        """Set the public key (base64url) with which a device was subscribed. Raises ConfigError for a malformed one."""
        self._vapid.bind(device_id, _decode_vapid_key(vapid_key))

    def set_rules(self, *rules: ResponseRule) -> None:
        """Replace the rules; without rules every valid message is accepted. Raises ValidationFailed."""
        self._behaviour.set_rules(rules)

    def reset(self) -> None:
        """Delete all messages, counters, rules and bound keys."""
        self._control.reset()

    async def wait_for(self, *, timeout: float = 10.0, **reached: int) -> Stats:  # noqa: ASYNC109  # part of the kit
        """Return the counters once e.g. `distinct=5` holds: received, accepted, distinct or verified.

        Arguments: timeout — seconds. Raises TimeoutError, ValidationFailed for another counter.
        """
        async with asyncio.timeout(timeout):
            for counter, number in reached.items():
                if counter not in ("received", "accepted", "distinct", "verified"):
                    raise ValidationFailed.for_field(counter, "is not a counter")
                await self._receipt_log.wait(counter, number)
        return self.stats()


def print_origin(origin: str) -> None:
    """Print the service's origin on standard output as one JSON line."""
    sys.stdout.write(json.dumps({"origin": origin}) + "\n")
    sys.stdout.flush()


async def serve(options: MockPushOptions, on_ready: Callable[[str], None] = print_origin) -> None:
    """Run the service until SIGTERM, SIGINT or, with `until_stdin_closes`, the end of standard input.

    Arguments: on_ready — called with the origin once connections are accepted. Raises ConfigError.
    """
    with stop_on_signal(until_stdin_closes=options.until_stdin_closes) as stop:
        async with MockPush(options) as push:
            on_ready(push.origin)
            await stop.wait()


def _create_tls_context(options: MockPushOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise ConfigError("tls-cert", "is required with tls-key")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("tls-cert", f"{options.tls_cert} cannot be used with its key: {error}") from None
    return context


def _decode_vapid_key(text: str) -> bytes:
    try:
        key = decode(text)
    except ValueError as error:
        raise ConfigError("vapid-key", str(error)) from None
    if len(key) != 65:
        raise ConfigError("vapid-key", f"must be an uncompressed P-256 point of 65 bytes, not {len(key)}")
    return key
