"""Sender processes that are killed, stopped or orphaned."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tidings.channels.webpush import generate_key
from tidings.channels.webpush.base64url import encode
from tidings.channels.webpush.frames import Result, Setup, flatten, unflatten
from tidings.channels.webpush.processes import PoolLimits, SenderPool
from tidings.channels.webpush.request import PushRequest
from tidings.channels.webpush.signs import Kind, Sent, Sign
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
from tidings.ports.clock import SystemClock

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[int]]
ReadRequest = Callable[[asyncio.StreamReader], Awaitable[tuple[dict[str, str], bytes]]]

KEY = generate_key(datetime(2026, 1, 1, tzinfo=UTC))
POINT = (
    ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class PushService:
    """Answers 201, except while it is told to hold everything back."""

    def __init__(self, read_request: ReadRequest) -> None:
        self.read_request = read_request
        self.received = 0
        self.holding = False
        self.arrived = asyncio.Condition()
        self.let_go = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self.read_request(reader)
            async with self.arrived:
                self.received += 1
                self.arrived.notify_all()
            if self.holding:
                await self.let_go.wait()
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async def wait_for(self, count: int) -> None:
        async with self.arrived:
            await asyncio.wait_for(self.arrived.wait_for(lambda: self.received >= count), 20)


@pytest.fixture
async def service(serve: Serve, read_request: ReadRequest) -> tuple[PushService, int]:
    found = PushService(read_request)
    return found, await serve(found.handle)


@pytest.fixture
async def pool(service: tuple[PushService, int]) -> AsyncIterator[SenderPool]:
    setup = Setup("mailto:ops@example.com", f"127.0.0.1:{service[1]}", None, (KEY,))
    made = SenderPool(2, setup, clock=SystemClock(), jitter=lambda: 0.0, limits=PoolLimits(stuck=2.0, pause=0.05))
    await made.open()
    yield made
    await asyncio.wait_for(made.close(), 20)


def request(port: int, attempt: int = 1) -> PushRequest:
    url = f"http://127.0.0.1:{port}/push/x"
    return PushRequest(url, POINT, bytes(16), KEY.id, b"{}", 60, "normal", None, attempt)


async def test_work_is_spread_over_the_processes(pool: SenderPool, service: tuple[PushService, int]) -> None:
    sent = await asyncio.gather(*(pool.send(request(service[1])) for _ in range(400)))
    assert {type(one.outcome) for one in sent} == {Delivered}
    assert {one.sign for one in sent} == {Sign(Kind.WELL)}
    assert len(set(pool.pids)) == 2


async def test_a_killed_process_defers_what_it_had_and_is_replaced(
    pool: SenderPool, service: tuple[PushService, int]
) -> None:
    push, port = service
    # one in flight in each process, so that each has a connection that does not wait for another's answer
    push.holding = True
    sends = [asyncio.create_task(pool.send(request(port))) for _ in range(2)]
    await push.wait_for(2)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    for sent in await asyncio.wait_for(asyncio.gather(*sends), 10):
        assert isinstance(sent.outcome, Deferred)
        assert sent.outcome.why == "a sender process died while sending"
        assert sent.outcome.spends_attempt
        assert sent.sign is None, "the host has nothing to do with it"
    push.holding = False
    # the pool has no process now: a send waits for the next one
    assert isinstance((await pool.send(request(port))).outcome, Delivered)


async def test_a_message_that_kills_its_process_is_given_up(pool: SenderPool, service: tuple[PushService, int]) -> None:
    push, port = service
    push.holding = True
    send = asyncio.create_task(pool.send(request(port, attempt=4)))
    await push.wait_for(1)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    given_up = Refused("gave up after 4 attempts: a sender process died while sending")
    assert await asyncio.wait_for(send, 10) == Sent(given_up)


async def test_a_process_that_is_stuck_is_replaced(pool: SenderPool, service: tuple[PushService, int]) -> None:
    for pid in pool.pids:
        os.kill(pid, signal.SIGSTOP)
    assert isinstance((await asyncio.wait_for(pool.send(request(service[1])), 15)).outcome, Deferred)


async def test_closing_waits_for_what_is_in_flight(service: tuple[PushService, int]) -> None:
    push, port = service
    setup = Setup("mailto:ops@example.com", f"127.0.0.1:{port}", None, (KEY,))
    pool = SenderPool(1, setup, clock=SystemClock(), jitter=lambda: 0.0)
    await pool.open()
    push.holding = True
    send = asyncio.create_task(pool.send(request(port)))
    await push.wait_for(1)
    closing = asyncio.create_task(pool.close())
    push.let_go.set()
    assert isinstance((await asyncio.wait_for(send, 10)).outcome, Delivered)
    await asyncio.wait_for(closing, 10)
    assert pool.pids == ()


PARENT = """
import asyncio, sys
from datetime import UTC, datetime
from tidings.channels.webpush import base64url, generate_key
from tidings.channels.webpush.frames import Setup
from tidings.channels.webpush.processes import SenderPool
from tidings.channels.webpush.request import PushRequest
from tidings.ports.clock import SystemClock

async def main():
    host, point = sys.argv[1:]
    key = generate_key(datetime.now(UTC))
    pool = SenderPool(2, Setup("mailto:ops@example.com", host, None, (key,)), clock=SystemClock(), jitter=lambda: 0.0)
    await pool.open()
    print(*pool.pids, flush=True)
    url = f"http://{host}/push/x"
    request = PushRequest(url, base64url.decode(point), bytes(16), key.id, b"{}", 60, "normal", None, 1)
    await asyncio.gather(*(pool.send(request) for _ in range(2)))

asyncio.run(main())
"""


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
async def test_processes_end_when_the_parent_is_killed(service: tuple[PushService, int]) -> None:
    push, port = service
    push.holding = True
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, f"127.0.0.1:{port}", encode(POINT), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pids = [int(word) for word in (await asyncio.wait_for(parent.stdout.readline(), 20)).split()]
    assert len(pids) == 2
    # both hang in a request: they must not finish it first
    await push.wait_for(2)
    arguments = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("cmdline", "environ"))
    assert b"ops@example.com" not in arguments
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while not all(ended(pid) for pid in pids):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "outcome",
    [
        Delivered("accepted", 201),
        Deferred(NOW + timedelta(seconds=2.5), "later", 429, spends_attempt=False),
        Deferred(NOW, "later"),
        Refused("no", 400, alert=True),
        Refused("no"),
        Gone("dead", 410),
        Gone("other key", 403, "rebind"),
    ],
)
@pytest.mark.parametrize("sign", [None, Sign(Kind.SILENT), Sign(Kind.SHUT, timedelta(seconds=2.5))])
def test_an_outcome_survives_the_pipe(outcome: Outcome, sign: Sign | None) -> None:
    raw = msgspec.msgpack.encode(flatten(1, Sent(outcome, sign)))
    assert unflatten(msgspec.msgpack.decode(raw, type=Result)) == Sent(outcome, sign)


async def test_closing_while_a_process_is_being_replaced_leaves_none_behind(service: tuple[PushService, int]) -> None:
    setup = Setup("mailto:ops@example.com", f"127.0.0.1:{service[1]}", None, (KEY,))
    for pause in (0.0, 0.01):
        pool = SenderPool(2, setup, clock=SystemClock(), jitter=lambda: 0.0, limits=PoolLimits(pause=pause))
        await pool.open()
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        # an unreaped process is a ResourceWarning, and warnings are errors
        await asyncio.wait_for(pool.close(), 20)
        assert pool.pids == ()


async def test_a_start_that_fails_is_repeated(
    service: tuple[PushService, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = asyncio.create_subprocess_exec, 2

    async def scarce(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(24, "Too many open files")
        return await real(*arguments, **options)

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    setup = Setup("mailto:ops@example.com", f"127.0.0.1:{service[1]}", None, (KEY,))
    pool = SenderPool(1, setup, clock=SystemClock(), jitter=lambda: 0.0, limits=PoolLimits(pause=0.01))
    await pool.open()
    assert isinstance((await pool.send(request(service[1]))).outcome, Delivered)
    await pool.close()
    assert [context["message"] for context in reported] == ["a sender process cannot be started"] * 2
