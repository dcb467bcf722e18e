"""A sender that uses third-party libraries (`http_ece`, `py_vapid`), and a minimal HTTP/1.1 client."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import http_ece
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02

from tidings.mockpush import DEFAULT_SEED, MockPush, derive_device
from tidings.mockpush.base64url import encode

PAYLOAD = {"web_push": 8030, "notification": {"title": "Moved", "navigate": "/events/1", "body": "Now at 19:30"}}


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def reason(self) -> object:
        return json.loads(self.body)["reason"]


@dataclass(frozen=True)
class Push:
    """The parts of one push request. Tests change single fields with `dataclasses.replace`."""

    device: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return f"/push/{self.device}"


class Sender:
    """Signs and encrypts pushes for a service."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.vapid = Vapid02()
        self.vapid.generate_keys()

    @property
    def public_key(self) -> bytes:
        point: bytes = self.vapid.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return point

    def authorization(self, **claims: object) -> str:
        """Return a header with the default claims updated by `claims`. A claim of None is left out."""
        standard = {"aud": self.origin, "exp": int(time.time()) + 3600, "sub": "mailto:ops@example.com"}
        if not claims:
            signed: str = self.vapid.sign(standard)["Authorization"]
            return signed
        # PyJWT, because py_vapid does not sign invalid claims
        wanted = {name: value for name, value in {**standard, **claims}.items() if value is not None}
        return f"vapid t={jwt.encode(wanted, self.vapid.private_key, 'ES256')}, k={encode(self.public_key)}"

    def encrypt(self, device: str, plaintext: bytes) -> bytes:
        keys = derive_device(DEFAULT_SEED, device)
        body: bytes = http_ece.encrypt(
            plaintext,
            private_key=ec.generate_private_key(ec.SECP256R1()),
            dh=keys.p256dh,
            auth_secret=keys.auth,
            version="aes128gcm",
        )
        return body

    def push(self, device: str = "u1-1", *, payload: object = PAYLOAD, **headers: str) -> Push:
        standard = {"TTL": "600", "Content-Encoding": "aes128gcm", "Authorization": self.authorization()}
        return Push(device, {**standard, **headers}, self.encrypt(device, json.dumps(payload).encode()))


class HttpClient:
    """One keep-alive connection. Requests may be written before earlier responses are read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        lines = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        self.writer.write(head.encode() + b"\r\n" + body)

    async def read(self) -> HttpResponse:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return HttpResponse(int(head[0].split()[1]), headers, body)

    async def call(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> HttpResponse:
        self.write(method, path, headers, body)
        return await self.read()

    async def send(self, push: Push, behaviour: str = "") -> HttpResponse:
        return await self.call("POST", f"/push/{behaviour}{push.device}", push.headers, push.body)


@pytest.fixture
async def push() -> AsyncIterator[MockPush]:
    async with MockPush() as service:
        yield service


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[str], Awaitable[HttpClient]]]:
    writers: list[asyncio.StreamWriter] = []

    async def open_connection(origin: str) -> HttpClient:
        host, _, port = origin.partition("://")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return HttpClient(reader, writer)

    yield open_connection
    for writer in writers:
        writer.close()


@pytest.fixture
async def client(push: MockPush, connect: Callable[[str], Awaitable[HttpClient]]) -> HttpClient:
    return await connect(push.origin)


@pytest.fixture
def sender(push: MockPush) -> Sender:
    return Sender(push.origin)
