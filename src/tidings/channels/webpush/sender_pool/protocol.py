"""The protocol between the pool and its sender processes: length-prefixed msgpack frames, each with a batch."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, cast

import msgspec

from tidings.channels.throttling.signals import SignalKind
from tidings.channels.webpush.push_exchange import PushRequest
from tidings.channels.webpush.throttling.host_signals import HostSignal, SendResult
from tidings.model.outcome import Accepted, InvalidTarget, Outcome, PermanentFailure, RetryLater, Uncertain
from tidings.model.subscription import VapidKey


class Init(msgspec.Struct, frozen=True, tag=True):
    """First frame to a process. Keys are sent only here: arguments and environment are visible to other processes."""

    subject: str
    extra_hosts: str
    ca_pem: bytes | None
    keys: tuple[VapidKey, ...]


class ReplaceKeys(msgspec.Struct, frozen=True, tag=True):
    """Replaces the VAPID keys."""

    keys: tuple[VapidKey, ...]


class RequestBatch(msgspec.Struct, frozen=True, tag=True):
    """Requests to send. Each has a number that its result repeats."""

    requests: list[tuple[int, PushRequest]]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The process is initialised and accepts requests."""


class WireResult(msgspec.Struct, frozen=True, array_like=True):
    """An outcome and its host signal as one flat record."""

    number: int
    kind: Literal["delivered", "deferred", "refused", "gone"]
    why: str
    status: int | None
    until: datetime | None = None
    #: `counts_as_attempt` of RetryLater, `operator_alert` of PermanentFailure
    flag: bool = False
    action: Literal["delete", "rebind", "suppress", "disable"] = "delete"
    signal: SignalKind | None = None
    #: seconds that the push service requested to wait
    retry_after: float | None = None
    #: seconds that this machine's clock is ahead of that of the push service
    clock_offset: float | None = None
    is_expired: bool = False
    is_target_suspect: bool = False


class ResultBatch(msgspec.Struct, frozen=True, tag=True):
    """Results of some of the requests."""

    results: list[WireResult]


ParentFrame = Init | ReplaceKeys | RequestBatch
ChildFrame = Ready | ResultBatch


def to_wire(number: int, result: SendResult) -> WireResult:
    """Return the wire form of a result."""
    wire = _outcome_to_wire(number, result.outcome)
    if result.signal is None:
        return wire
    return msgspec.structs.replace(
        wire,
        signal=result.signal.kind,
        retry_after=_to_seconds(result.signal.retry_after),
        clock_offset=_to_seconds(result.signal.clock_offset),
    )


def from_wire(result: WireResult) -> SendResult:
    """Return the result, the inverse of `to_wire`."""
    outcome = _outcome_from_wire(result)
    if result.signal is None:
        return SendResult(outcome)
    signal = HostSignal(result.signal, _from_seconds(result.retry_after), _from_seconds(result.clock_offset))
    return SendResult(outcome, signal)


def _to_seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _from_seconds(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _outcome_to_wire(number: int, outcome: Outcome) -> WireResult:
    assert not isinstance(outcome, Uncertain), "a push has a topic, so that it may be repeated"
    match outcome:
        case Accepted(why, status):
            return WireResult(number, "delivered", why, status)
        case RetryLater(until, why, status, counts_as_attempt):
            return WireResult(number, "deferred", why, status, until, counts_as_attempt)
        case PermanentFailure(why, status, operator_alert, is_expired, is_target_suspect):
            return WireResult(
                number,
                "refused",
                why,
                status,
                flag=operator_alert,
                is_expired=is_expired,
                is_target_suspect=is_target_suspect,
            )
        case InvalidTarget(why, status, action):
            return WireResult(number, "gone", why, status, action=action)


def _outcome_from_wire(result: WireResult) -> Outcome:
    match result.kind:
        case "delivered":
            return Accepted(result.why, result.status)
        case "deferred":
            assert result.until is not None
            return RetryLater(result.until, result.why, result.status, result.flag)
        case "refused":
            return PermanentFailure(result.why, result.status, result.flag, result.is_expired, result.is_target_suspect)
        case "gone":
            return InvalidTarget(result.why, result.status, result.action)


_encode = msgspec.msgpack.Encoder().encode
_LENGTH_PREFIX_SIZE = 4


class FramedConnection(asyncio.Protocol):
    """Reads and writes frames on a stream socket, at either end."""

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        """`on_frame` receives the bytes of one frame. `disconnected` resolves when the connection is lost."""
        self._on_frame = on_frame
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self.disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH_PREFIX_SIZE:
            end = start + _LENGTH_PREFIX_SIZE + int.from_bytes(buffer[start : start + _LENGTH_PREFIX_SIZE], "big")
            if len(buffer) < end:
                break
            self._on_frame(bytes(buffer[start + _LENGTH_PREFIX_SIZE : end]))
            start = end
        del buffer[:start]

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.disconnected.done():
            self.disconnected.set_result(None)

    def write(self, frame: ParentFrame | ChildFrame) -> None:
        """Send one frame. It is dropped if the connection is lost; see `disconnected`."""
        if self._transport is not None and not self._transport.is_closing():
            raw = _encode(frame)
            self._transport.write(len(raw).to_bytes(_LENGTH_PREFIX_SIZE, "big") + raw)

    def close(self) -> None:
        """Close after all written frames have been sent."""
        if self._transport is not None:
            self._transport.close()
