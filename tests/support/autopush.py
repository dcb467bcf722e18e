"""A small push service for Firefox: the autopush WebSocket protocol for the browser, Web Push over HTTP for the sender.

Point Firefox at `AutopushServer.websocket_url` (preference `dom.push.serverURL`) and it subscribes, receives and
acknowledges offline as with Mozilla's service. An acknowledgement contains the result inside the browser, which a
push service does not report to senders: code 100 = decrypted and passed to the service worker, 101 = could not be
decrypted, 102 = the service worker failed. Firefox thereby verifies the encryption independently.

Needs the package `websockets` (in the test dependencies). Loopback only. Nothing is stored on disk.
Protocol: autopush-rs documentation, "Push Service WebSocket protocol"; HTTP side: RFC 8030, RFC 8292.
"""

import asyncio
import base64
import json
import logging
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from websockets.asyncio.server import Server, ServerConnection, serve

#: the code for a message that the browser decrypted
ACK_DELIVERED = 100
_MAX_BODY = 4096
_MAX_HEAD_LINES = 100

# a browser that disconnects during a handshake is not an error
_log = logging.getLogger("tests.support.autopush")
_log.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A browser's acknowledgement of one message."""

    channel: str
    #: the id of the message, as in the `Location` of the 201
    version: str
    #: 100 delivered, 101 not decrypted, 102 not delivered for another reason
    code: int


@dataclass(slots=True)
class _Channel:
    """One subscription of one browser."""

    id: str
    #: the subscription's VAPID public key, base64url; None = any sender
    vapid_key: str | None


@dataclass(slots=True)
class _Request:
    """One complete HTTP request."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Refusal(Exception):
    """Rejects the push request with `status` and `errno` (autopush's error numbers)."""

    def __init__(self, status: int, errno: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.errno = errno
        self.reason = reason


class AutopushServer:
    """Both sides of the service, on two loopback ports. An async context manager.

    `websocket_url` is for the browser. `origin` (http://127.0.0.1:PORT) is the origin of endpoints.
    """

    def __init__(self) -> None:
        self.acknowledgements: list[Acknowledgement] = []
        #: (status, reason) of each rejected push request
        self.refusals: list[tuple[int, str]] = []
        self.websocket_url = ""
        self.origin = ""
        self._acknowledgement_added = asyncio.Condition()
        self._channels: dict[str, _Channel] = {}
        self._undelivered: list[dict[str, object]] = []
        self._browser: ServerConnection | None = None
        self._websocket_server: Server | None = None
        self._http_server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._websocket_server = await serve(self._handle_websocket, "127.0.0.1", 0, logger=_log)
        self._http_server = await asyncio.start_server(self._handle_http, "127.0.0.1", 0)
        self.websocket_url = f"ws://127.0.0.1:{next(iter(self._websocket_server.sockets)).getsockname()[1]}/"
        self.origin = f"http://127.0.0.1:{self._http_server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http_server is not None:
            self._http_server.close()
            await self._http_server.wait_closed()
        if self._websocket_server is not None:
            self._websocket_server.close()
            await self._websocket_server.wait_closed()

    def end_subscriptions(self) -> None:
        """Forget all subscriptions, so that pushes get 404, without a word to the browser."""
        self._channels.clear()

    async def rotate_subscriptions(self) -> None:
        """Reset the browser's registration: it drops its subscriptions and sends `pushsubscriptionchange`.

        At the next hello the browser receives another id (uaid), as after a loss of data at the push service.
        """
        self._channels.clear()
        assert self._browser is not None, "the browser is connected"
        await self._browser.close()

    @property
    def host(self) -> str:
        """Return `127.0.0.1:PORT`, the form of `TIDINGS_PUSH_EXTRA_HOSTS`."""
        return self.origin.removeprefix("http://")

    async def wait_for_acknowledgements(self, count: int, seconds: float) -> list[Acknowledgement]:
        """Wait until `count` messages were acknowledged. Raises TimeoutError after `seconds`."""
        async with asyncio.timeout(seconds), self._acknowledgement_added:
            await self._acknowledgement_added.wait_for(lambda: len(self.acknowledgements) >= count)
        return list(self.acknowledgements)

    # --- the browser's side

    async def _handle_websocket(self, browser: ServerConnection) -> None:
        async for text in browser:
            message = json.loads(text)
            match message.get("messageType"):
                case "hello":
                    self._browser = browser
                    await self._send({"messageType": "hello", "status": 200, "uaid": uuid.uuid4().hex,
                                      "use_webpush": True, "broadcasts": {}})  # fmt: skip
                    waiting, self._undelivered = self._undelivered, []
                    for late in waiting:
                        await self._send(late)
                case "register":
                    await self._send(self._register(message["channelID"], message.get("key")))
                case "unregister":
                    self._channels = {key: one for key, one in self._channels.items() if one.id != message["channelID"]}
                    await self._send({"messageType": "unregister", "channelID": message["channelID"], "status": 200})
                case "ack":
                    async with self._acknowledgement_added:
                        for update in message["updates"]:
                            code = update.get("code", ACK_DELIVERED)
                            version = update["version"]
                            self.acknowledgements.append(Acknowledgement(update["channelID"], version, code))
                        self._acknowledgement_added.notify_all()
                case None:  # "{}" is a ping
                    await browser.send("{}")

    def _register(self, channel: str, key: str | None) -> dict[str, object]:
        token = uuid.uuid4().hex
        self._channels[token] = _Channel(channel, key)
        endpoint = f"{self.origin}/wpush/v2/{token}"
        return {"messageType": "register", "channelID": channel, "status": 200, "pushEndpoint": endpoint}

    async def _send(self, message: dict[str, object]) -> None:
        assert self._browser is not None
        await self._browser.send(json.dumps(message))

    # --- the application server's side

    async def _handle_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                try:
                    version = await self._accept_push(request)
                except _Refusal as refusal:
                    self.refusals.append((refusal.status, refusal.reason))
                    detail = {"code": refusal.status, "errno": refusal.errno, "message": refusal.reason}
                    _write_response(
                        writer, refusal.status, json.dumps(detail).encode(), "Content-Type: application/json"
                    )
                else:
                    _write_response(writer, 201, b"", f"Location: {self.origin}/m/{version}")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            # the sender disconnected during a request
            return
        finally:
            writer.close()

    async def _accept_push(self, request: _Request) -> str:
        channel = self._channels.get(request.path.removeprefix("/wpush/v2/"))
        if request.method != "POST" or channel is None:
            raise _Refusal(404, 102, "no such endpoint")
        if not request.headers.get("ttl", "").isdigit():
            raise _Refusal(400, 111, "TTL is missing (RFC 8030 §5.2)")
        if request.headers.get("content-encoding") != "aes128gcm":
            raise _Refusal(400, 110, "Content-Encoding must be aes128gcm (RFC 8291 §4)")
        if len(request.body) > _MAX_BODY:
            raise _Refusal(413, 104, "the body is larger than 4096 bytes")
        self._check_vapid(request.headers.get("authorization", ""), channel)
        version = uuid.uuid4().hex
        message: dict[str, object] = {
            "messageType": "notification",
            "channelID": channel.id,
            "version": version,
            "data": base64.urlsafe_b64encode(request.body).rstrip(b"=").decode(),
            "headers": {"encoding": "aes128gcm"},
        }
        if self._browser is None:
            self._undelivered.append(message)
        else:
            await self._send(message)
        return version

    def _check_vapid(self, authorization: str, channel: _Channel) -> None:
        scheme, _, rest = authorization.partition(" ")
        parts = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
        if scheme.lower() != "vapid" or not {"t", "k"} <= parts.keys():
            raise _Refusal(401, 109, "Authorization must be `vapid t=…, k=…` (RFC 8292 §3)")
        if channel.vapid_key is not None and parts["k"].rstrip("=") != channel.vapid_key.rstrip("="):
            raise _Refusal(401, 109, "the key is not the one the browser subscribed with")
        try:
            raw = base64.urlsafe_b64decode(parts["k"] + "=" * (-len(parts["k"]) % 4))
            key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), raw)
            jwt.decode(parts["t"], key, algorithms=["ES256"], audience=self.origin, options={"require": ["exp", "aud"]})
        except (ValueError, jwt.InvalidTokenError) as error:
            raise _Refusal(401, 109, f"VAPID: {error}") from error


async def _read_request(reader: asyncio.StreamReader) -> _Request | None:
    """Read one HTTP/1.1 request with a Content-Length. Return None at the end of the connection."""
    first = await reader.readline()
    if not first.strip():
        return None
    method, path, _ = first.decode("latin-1").split(" ", 2)
    request = _Request(method, path)
    for _ in range(_MAX_HEAD_LINES):
        line = (await reader.readline()).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        request.headers[name.lower()] = value.strip()
    request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
    return request


def _write_response(writer: asyncio.StreamWriter, status: int, body: bytes, header: str) -> None:
    head = f"HTTP/1.1 {status} -\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode("latin-1") + body)
