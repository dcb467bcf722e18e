"""What travels between the pool and its sender processes: length-prefixed msgpack frames, each a batch."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, cast

import msgspec

from tidings.channels.webpush.request import PushRequest
from tidings.channels.webpush.signs import Kind, Sent, Sign
from tidings.model.outcome import Deferred, Delivered, Gone, Outcome, Refused
from tidings.model.subscription import VapidKey


class Setup(msgspec.Struct, frozen=True, tag=True):
    """First frame to a process. The pipe is the only way keys travel: arguments and environment can be read."""

    subject: str
    extra_hosts: str
    ca_pem: bytes | None
    keys: tuple[VapidKey, ...]


class Keys(msgspec.Struct, frozen=True, tag=True):
    """Replaces the known VAPID keys."""

    keys: tuple[VapidKey, ...]


class Work(msgspec.Struct, frozen=True, tag=True):
    """Requests to send, each with a number that its result carries."""

    requests: list[tuple[int, PushRequest]]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The process has what it needs."""


class Result(msgspec.Struct, frozen=True, array_like=True):
    """An outcome and what it says about the host, flat."""

    number: int
    kind: Literal["delivered", "deferred", "refused", "gone"]
    why: str
    status: int | None
    until: datetime | None = None
    #: `spends_attempt` of Deferred, `alert` of Refused
    flag: bool = False
    remedy: Literal["delete", "rebind"] = "delete"
    sign: Kind | None = None
    #: seconds that the host asked to wait
    wait: float | None = None


class Results(msgspec.Struct, frozen=True, tag=True):
    """What came of some of the requests."""

    results: list[Result]


ToProcess = Setup | Keys | Work
FromProcess = Ready | Results


def flatten(number: int, sent: Sent) -> Result:
    """Return what came of a push in its travelling form."""
    result = _flat(number, sent.outcome)
    if sent.sign is None:
        return result
    wait = None if sent.sign.wait is None else sent.sign.wait.total_seconds()
    return msgspec.structs.replace(result, sign=sent.sign.kind, wait=wait)


def unflatten(result: Result) -> Sent:
    """Return what came of a push, the inverse of `flatten`."""
    outcome = _outcome(result)
    if result.sign is None:
        return Sent(outcome)
    return Sent(outcome, Sign(result.sign, None if result.wait is None else timedelta(seconds=result.wait)))


def _flat(number: int, outcome: Outcome) -> Result:
    match outcome:
        case Delivered(why, status):
            return Result(number, "delivered", why, status)
        case Deferred(until, why, status, spends_attempt):
            return Result(number, "deferred", why, status, until, spends_attempt)
        case Refused(why, status, alert):
            return Result(number, "refused", why, status, flag=alert)
        case Gone(why, status, remedy):
            return Result(number, "gone", why, status, remedy=remedy)


def _outcome(result: Result) -> Outcome:
    match result.kind:
        case "delivered":
            return Delivered(result.why, result.status)
        case "deferred":
            assert result.until is not None
            return Deferred(result.until, result.why, result.status, result.flag)
        case "refused":
            return Refused(result.why, result.status, result.flag)
        case "gone":
            return Gone(result.why, result.status, result.remedy)


_encode = msgspec.msgpack.Encoder().encode
_LENGTH = 4


class Pipe(asyncio.Protocol):
    """Frames over a stream socket, for either end. `on_frame` gets the bytes of one frame."""

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        """Set `lost` resolves when the other end is gone."""
        self._on_frame = on_frame
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH:
            end = start + _LENGTH + int.from_bytes(buffer[start : start + _LENGTH], "big")
            if len(buffer) < end:
                break
            self._on_frame(bytes(buffer[start + _LENGTH : end]))
            start = end
        del buffer[:start]

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def write(self, frame: ToProcess | FromProcess) -> None:
        """Send one frame; into a pipe that is lost it vanishes, and whoever waits learns it from `lost`."""
        if self._transport is not None and not self._transport.is_closing():
            raw = _encode(frame)
            self._transport.write(len(raw).to_bytes(_LENGTH, "big") + raw)

    def close(self) -> None:
        """Close after what was written has left."""
        if self._transport is not None:
            self._transport.close()
