"""The sender pool when sender processes are killed, stuck or orphaned."""

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

from tidings.channels.throttling.signals import SignalKind
from tidings.channels.webpush import generate_key
from tidings.channels.webpush.base64url import encode
from tidings.channels.webpush.push_exchange import PushRequest
from tidings.channels.webpush.sender_pool.pool import SenderPool, SenderPoolTimeouts
from tidings.channels.webpush.sender_pool.protocol import Init, WireResult, from_wire, to_wire
from tidings.channels.webpush.throttling.host_signals import HostSignal, SendResult
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater
from tidings.ports.clock import SystemClock

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Handler], Awaitable[int]]
ReadRequest = Callable[[asyncio.StreamReader], Awaitable[tuple[dict[str, str], bytes]]]

KEY = generate_key(datetime(2026, 1, 1, tzinfo=UTC))
POINT = (
    ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
LATER = datetime.now(UTC) + timedelta(hours=1)


class PushService:
    """Answers 201, or holds all answers back while `holding` is set."""

    def __init__(self, read_request: ReadRequest) -> None:
        self.read_request = read_request
        self.received = 0
        self.holding = False
        self.arrived = asyncio.Condition()
        self.release = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self.read_request(reader)
            async with self.arrived:
                self.received += 1
                self.arrived.notify_all()
            if self.holding:
                await self.release.wait()
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
    setup = Init("mailto:ops@example.com", f"127.0.0.1:{service[1]}", None, (KEY,))
    sender_pool = SenderPool(
        2, setup, clock=SystemClock(), jitter=lambda: 0.0, timeouts=SenderPoolTimeouts(response=2.0, restart_delay=0.05)
    )
    await sender_pool.open()
    yield sender_pool
    await asyncio.wait_for(sender_pool.close(), 20)


def request(port: int, attempt: int = 1) -> PushRequest:
    url = f"http://127.0.0.1:{port}/push/x"
    return PushRequest(url, POINT, bytes(16), KEY.id, b"{}", LATER, "normal", None, attempt)


async def test_sends_are_distributed_over_the_processes(pool: SenderPool, service: tuple[PushService, int]) -> None:
    sent = await asyncio.gather(*(pool.send(request(service[1])) for _ in range(400)))
    assert {type(one.outcome) for one in sent} == {Accepted}
    assert {one.signal for one in sent} == {HostSignal(SignalKind.HEALTHY)}
    assert len(set(pool.pids)) == 2


async def test_sends_of_a_killed_process_are_deferred_and_it_is_replaced(
    pool: SenderPool, service: tuple[PushService, int]
) -> None:
    push, port = service
    # one send in flight per process, so that each process has its own connection
    push.holding = True
    sends = [asyncio.create_task(pool.send(request(port))) for _ in range(2)]
    await push.wait_for(2)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    for sent in await asyncio.wait_for(asyncio.gather(*sends), 10):
        assert isinstance(sent.outcome, RetryLater)
        assert sent.outcome.why == "a sender process died while sending"
        assert sent.outcome.counts_as_attempt
        assert sent.signal is None, "the failure is not attributed to the host"
    push.holding = False
    # the pool has no process now, so a send waits for a replacement
    assert isinstance((await pool.send(request(port))).outcome, Accepted)


async def test_a_message_that_kills_its_process_fails_permanently(
    pool: SenderPool, service: tuple[PushService, int]
) -> None:
    push, port = service
    push.holding = True
    send = asyncio.create_task(pool.send(request(port, attempt=4)))
    await push.wait_for(1)
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    failure = PermanentFailure("gave up after 4 attempts: a sender process died while sending")
    assert await asyncio.wait_for(send, 10) == SendResult(failure)


async def test_a_stuck_process_is_replaced(pool: SenderPool, service: tuple[PushService, int]) -> None:
    for pid in pool.pids:
        os.kill(pid, signal.SIGSTOP)
    assert isinstance((await asyncio.wait_for(pool.send(request(service[1])), 15)).outcome, RetryLater)


async def test_closing_waits_for_sends_in_flight(service: tuple[PushService, int]) -> None:
    push, port = service
    setup = Init("mailto:ops@example.com", f"127.0.0.1:{port}", None, (KEY,))
    pool = SenderPool(1, setup, clock=SystemClock(), jitter=lambda: 0.0)
    await pool.open()
    push.holding = True
    send = asyncio.create_task(pool.send(request(port)))
    await push.wait_for(1)
    closing = asyncio.create_task(pool.close())
    push.release.set()
    assert isinstance((await asyncio.wait_for(send, 10)).outcome, Accepted)
    await asyncio.wait_for(closing, 10)
    assert pool.pids == ()


PARENT = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from tidings.channels.webpush import base64url, generate_key
from tidings.channels.webpush.sender_pool.protocol import Init
from tidings.channels.webpush.sender_pool.pool import SenderPool
from tidings.channels.webpush.push_exchange import PushRequest
from tidings.ports.clock import SystemClock

async def main():
    host, point = sys.argv[1:]
    key = generate_key(datetime.now(UTC))
    pool = SenderPool(2, Init("mailto:ops@example.com", host, None, (key,)), clock=SystemClock(), jitter=lambda: 0.0)
    await pool.open()
    print(*pool.pids, flush=True)
    url = f"http://{host}/push/x"
    later = datetime.now(UTC) + timedelta(hours=1)
    request = PushRequest(url, base64url.decode(point), bytes(16), key.id, b"{}", later, "normal", None, 1)
    await asyncio.gather(*(pool.send(request) for _ in range(2)))

asyncio.run(main())
"""


def has_exited(pid: int) -> bool:
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
    # both processes are in a request that never ends; they must exit all the same
    await push.wait_for(2)
    arguments = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("cmdline", "environ"))
    assert b"ops@example.com" not in arguments
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while not all(has_exited(pid) for pid in pids):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "outcome",
    [
        Accepted("accepted", 201),
        RetryLater(NOW + timedelta(seconds=2.5), "later", 429, counts_as_attempt=False),
        RetryLater(NOW, "later"),
        PermanentFailure("no", 400, operator_alert=True),
        PermanentFailure("no"),
        PermanentFailure("no", 400, is_target_suspect=True),
        PermanentFailure("too late", is_expired=True),
        InvalidTarget("dead", 410),
        InvalidTarget("other key", 403, "rebind"),
    ],
)
@pytest.mark.parametrize(
    "sign",
    [
        None,
        HostSignal(SignalKind.TIMEOUT),
        HostSignal(SignalKind.UNAVAILABLE, timedelta(seconds=2.5)),
        HostSignal(SignalKind.REFUSED, clock_offset=timedelta(hours=-25)),
    ],
)
def test_an_outcome_is_serialised_without_loss(outcome: Outcome, sign: HostSignal | None) -> None:
    raw = msgspec.msgpack.encode(to_wire(1, SendResult(outcome, sign)))
    assert from_wire(msgspec.msgpack.decode(raw, type=WireResult)) == SendResult(outcome, sign)


async def test_closing_during_a_replacement_leaves_no_process(service: tuple[PushService, int]) -> None:
    setup = Init("mailto:ops@example.com", f"127.0.0.1:{service[1]}", None, (KEY,))
    for pause in (0.0, 0.01):
        pool = SenderPool(
            2, setup, clock=SystemClock(), jitter=lambda: 0.0, timeouts=SenderPoolTimeouts(restart_delay=pause)
        )
        await pool.open()
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        # an unreaped process causes a ResourceWarning, which is an error in tests
        await asyncio.wait_for(pool.close(), 20)
        assert pool.pids == ()


async def test_a_failed_process_start_is_retried(
    service: tuple[PushService, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = asyncio.create_subprocess_exec, 2

    async def fail_then_start(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(24, "Too many open files")
        return await real(*arguments, **options)

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail_then_start)
    setup = Init("mailto:ops@example.com", f"127.0.0.1:{service[1]}", None, (KEY,))
    pool = SenderPool(
        1, setup, clock=SystemClock(), jitter=lambda: 0.0, timeouts=SenderPoolTimeouts(restart_delay=0.01)
    )
    await pool.open()
    assert isinstance((await pool.send(request(service[1]))).outcome, Accepted)
    await pool.close()
    assert [context["message"] for context in reported] == ["cannot start a sender process"] * 2
