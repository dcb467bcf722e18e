"""Benchmark of one push: the cost of each step, and the rate of complete sends.

Usage: `python bench/push_parts.py [--messages N]`. The steps are measured one at a time in this process. Complete sends
go to a minimal HTTP/1.1 server in a separate process on 127.0.0.1, first from this process, then from one and two
sender processes.
"""

import argparse
import asyncio
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tidings.channels.webpush import EndpointPolicy, WebPushChannel, generate_key
from tidings.channels.webpush.encryption import encrypt, encrypt_record
from tidings.channels.webpush.payload import build_topic, encode_payload
from tidings.channels.webpush.vapid import VapidSigner, sign_token
from tidings.model.delivery import OutboundMessage
from tidings.model.outcome import Accepted
from tidings.model.priority import Priority
from tidings.model.subscription import PushSubscription
from tidings.model.template import Category, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.ports.clock import SystemClock

SUBJECT = "mailto:ops@example.com"
IN_FLIGHT = 200
CURVE = ec.SECP256R1()
CONTENT = RenderedMessage("Jazz night starts later", "7:00 PM → 8:30 PM, Main hall", "https://example.com/e/1", "en")


class Sink(asyncio.Protocol):
    """A minimal push service that responds with 201 to every request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self.transport = cast("asyncio.WriteTransport", transport)
        self.buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self.buffer) < end + 4 + length:
                return
            del self.buffer[: end + 4 + length]
            self.transport.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")


async def run_sink() -> None:
    """Print the port, then serve until standard input closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def measure(name: str, step: Callable[[], object], repeats: int = 3000) -> None:
    """Print the best of three averages of a step, in µs."""
    step()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        best = min(best, (time.perf_counter() - start) / repeats)
    print(f"{name:<44}{best * 1e6:8.1f} µs")


def measure_steps() -> None:
    """Print the cost of each step."""
    now = datetime.now(UTC)
    key = generate_key(now)
    signer = VapidSigner([key], SUBJECT)
    sender, device = ec.generate_private_key(CURVE), ec.generate_private_key(CURVE)
    point = device.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    auth, salt, shared = os.urandom(16), os.urandom(16), os.urandom(32)
    policy = EndpointPolicy()
    url = "https://fcm.googleapis.com/fcm/send/" + "x" * 140
    encode = partial(
        encode_payload, CONTENT, notification_id="n" * 36, delivery_id="d" * 36, tag="t" * 32, expires_at=now
    )
    payload = encode()
    measure("payload: content to JSON", encode)
    measure("topic", lambda: build_topic("n" * 36))
    measure("endpoint check", lambda: policy.check(url))
    measure("VAPID header, cached token", lambda: signer.get_authorization("https://fcm.googleapis.com", key.id, now))
    measure(
        "VAPID token, signing", lambda: sign_token(key, audience="https://a.example", subject=SUBJECT, expires_at=now)
    )
    measure("P-256 key pair", lambda: ec.generate_private_key(CURVE))
    measure("  public bytes", lambda: sender.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    measure("device key, parsing", lambda: ec.EllipticCurvePublicKey.from_encoded_point(CURVE, point))
    measure("ECDH", lambda: sender.exchange(ec.ECDH(), device.public_key()))
    measure("three HMACs and AES-128-GCM", lambda: encrypt_record(payload, salt, shared))
    measure(f"aes128gcm, complete ({len(payload)} bytes)", lambda: encrypt(payload, point, auth))


async def measure_sending(port: int, workers: int, messages: int) -> None:
    """Print the rate of complete sends: encryption, POST, evaluation of the response."""
    now = datetime.now(UTC)
    key = generate_key(now)
    device = ec.generate_private_key(CURVE).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    policy = EndpointPolicy.parse(f"127.0.0.1:{port}")
    channel = WebPushChannel([key], SUBJECT, policy, SystemClock(), workers)
    context = ComposeContext("n" * 36, "d" * 36, "u", Category("NEWS", "News"), "n" * 36, now, "UTC")
    payload = channel.compose(CONTENT, context)
    target = PushSubscription("s", "u", f"http://127.0.0.1:{port}/push/x", device, secrets.token_bytes(16), key.id)
    message = OutboundMessage("d", "n", target, payload, Priority.NORMAL, now + timedelta(hours=1), 1, "n" * 36)

    async def send(count: int) -> None:
        for _ in range(count):
            outcome = await channel.send(message)
            assert isinstance(outcome, Accepted), outcome

    await channel.open()
    await asyncio.gather(*(send(2) for _ in range(IN_FLIGHT)))
    started, cpu_before = time.perf_counter(), time.process_time()
    await asyncio.gather(*(send(messages // IN_FLIGHT) for _ in range(IN_FLIGHT)))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_before
    await channel.close()
    title = f"complete send, {workers} sender process{'es' if workers > 1 else ''}" if workers else "complete send"
    cpu_us = cpu_seconds / messages * 1e6
    print(f"{title:<44}{messages / seconds:8.0f} /s, {cpu_us:.0f} µs CPU per message in this process")


def main() -> None:
    """Measure the steps, then complete sends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sink:
        uvloop.run(run_sink())
        return
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    measure_steps()
    with subprocess.Popen(  # noqa: S603  # this file
        [sys.executable, __file__, "--sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sink:
        assert sink.stdout is not None
        port = int(sink.stdout.readline())
        for workers in (0, 1, 2):
            uvloop.run(measure_sending(port, workers, options.messages))
        assert sink.stdin is not None
        sink.stdin.close()


if __name__ == "__main__":
    main()
