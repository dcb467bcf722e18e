"""A pool of sender processes.

Encryption takes about 105 µs of one core per message and holds the GIL, so one process cannot use several cores.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from tidings.channels.webpush.push_exchange import PushRequest
from tidings.channels.webpush.response_policy import AttemptContext, retry_or_give_up
from tidings.channels.webpush.sender import InFlightCounter
from tidings.channels.webpush.sender_pool.protocol import (
    ChildFrame,
    FramedConnection,
    Init,
    Ready,
    ReplaceKeys,
    RequestBatch,
    ResultBatch,
    from_wire,
)
from tidings.channels.webpush.throttling.host_signals import SendResult
from tidings.errors import BackendError
from tidings.model.subscription import VapidKey
from tidings.ports.clock import Clock

_CHILD_MODULE = "tidings.channels.webpush.sender_pool.child"
_decode = msgspec.msgpack.Decoder(ChildFrame).decode


@dataclass(frozen=True, slots=True)
class SenderPoolTimeouts:
    """Timeouts of the pool, in seconds."""

    #: from starting a process to its first frame
    startup: float = 20.0
    #: a process that has not answered a request for this long is replaced (the transport times out after 10 s)
    response: float = 60.0
    #: pause before restarting a process that ended early, so that a broken installation does not loop
    restart_delay: float = 1.0
    #: how long a send waits while no process is ready
    wait_for_ready: float = 5.0


@dataclass(frozen=True, slots=True)
class _PendingRequest:
    future: asyncio.Future[SendResult]
    attempt: int
    #: event loop time
    submitted_at: float


class _ChildSupervisor:
    """Runs one sender process of the pool and restarts it when it ends."""

    def __init__(
        self, build_init: Callable[[], Init], build_failure: Callable[[int], SendResult], timeouts: SenderPoolTimeouts
    ) -> None:
        self._build_init = build_init
        self._build_failure = build_failure
        self._timeouts = timeouts
        self._outgoing: list[tuple[int, PushRequest]] = []
        self._last_number = 0
        self._connection: FramedConnection | None = None
        # an event and not a cancellation, which could interrupt the start or the reaping of a process and leak it
        self._stop_requested = asyncio.Event()
        self.pending: dict[int, _PendingRequest] = {}
        self.ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None

    def submit(self, request: PushRequest) -> asyncio.Future[SendResult]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SendResult] = loop.create_future()
        self._last_number += 1
        self.pending[self._last_number] = _PendingRequest(future, request.attempt, loop.time())
        if not self._outgoing:
            # one frame for all requests of this pass of the event loop
            loop.call_soon(self._flush)
        self._outgoing.append((self._last_number, request))
        return future

    def write(self, frame: ReplaceKeys) -> None:
        if self._connection is not None:
            self._connection.write(frame)

    def stop(self) -> None:
        """Stop the process. `supervise` then returns."""
        self._stop_requested.set()
        if self._connection is not None:
            self._connection.close()

    async def supervise(self) -> None:
        """Start the process, wait until it ends and restart it, until stopped."""
        loop = asyncio.get_running_loop()
        while not self._stop_requested.is_set():
            started_at = loop.time()
            try:
                await self._run_once()
            except OSError as error:
                # no memory or file descriptors left: other programs may free some, so try again after the pause
                loop.call_exception_handler({"message": "cannot start a sender process", "exception": error})
            finally:
                self._fail_pending()
            if loop.time() - started_at < self._timeouts.restart_delay:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._timeouts.restart_delay):
                        await self._stop_requested.wait()

    async def _run_once(self) -> None:
        parent_socket, child_socket = socket.socketpair()
        try:
            with child_socket:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    _CHILD_MODULE,
                    stdin=child_socket.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                )
            parent_socket.setblocking(False)
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: FramedConnection(self._on_frame), sock=parent_socket)
        except BaseException:
            parent_socket.close()
            raise
        self._connection = connection
        try:
            connection.write(self._build_init())
            await self._wait_until_dead_or_stuck(connection)
        finally:
            self.ready.clear()
            self._connection = None
            connection.close()
            await self._reap(self.process)
            await asyncio.wait({connection.disconnected}, timeout=self._timeouts.restart_delay)

    async def _wait_until_dead_or_stuck(self, connection: FramedConnection) -> None:
        """Return when the process has ended, did not start in time, or exceeded the response timeout."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        while not connection.disconnected.done() and not self._stop_requested.is_set():
            await asyncio.wait({connection.disconnected}, timeout=self._timeouts.response / 4)
            oldest = next(iter(self.pending.values()), None)
            if oldest is not None and loop.time() - oldest.submitted_at > self._timeouts.response:
                return
            if not self.ready.is_set() and loop.time() - started_at > self._timeouts.startup:
                return

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the process to end after its connection was closed, and kill it after a timeout."""
        try:
            async with asyncio.timeout(self._timeouts.restart_delay):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _on_frame(self, raw: bytes) -> None:
        match _decode(raw):
            case Ready():
                self.ready.set()
            case ResultBatch(results):
                for result in results:
                    entry = self.pending.pop(result.number, None)
                    if entry is not None and not entry.future.done():
                        entry.future.set_result(from_wire(result))

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._connection is not None:
            self._connection.write(RequestBatch(outgoing))

    def _fail_pending(self) -> None:
        pending, self.pending = self.pending, {}
        for entry in pending.values():
            if not entry.future.done():
                entry.future.set_result(self._build_failure(entry.attempt))


class SenderPool:
    """Sends pushes from `size` processes. Same interface as `PushSender`."""

    def __init__(
        self,
        size: int,
        init: Init,
        *,
        clock: Clock,
        jitter: Callable[[], float],
        timeouts: SenderPoolTimeouts | None = None,
    ) -> None:
        """`init` is the first frame to each process. `jitter` returns a random number, 0 ≤ n < 1."""
        self._timeouts = timeouts or SenderPoolTimeouts()
        self._init = init
        self._clock = clock
        self._jitter = jitter
        self._children = [
            _ChildSupervisor(lambda: self._init, self._build_child_failure, self._timeouts) for _ in range(size)
        ]
        self._supervisor_tasks: list[asyncio.Task[None]] = []
        self._in_flight = InFlightCounter()

    async def open(self) -> None:
        """Start the processes.

        Raises BackendError if one does not start in time. Its own error message is on standard error.
        """
        self._supervisor_tasks = [asyncio.create_task(child.supervise()) for child in self._children]
        try:
            async with asyncio.timeout(self._timeouts.startup):
                await asyncio.gather(*(child.ready.wait() for child in self._children))
        except TimeoutError:
            await self.close()
            raise BackendError("the sender processes did not start; see the messages above") from None

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the VAPID keys in every running and future process."""
        self._init = msgspec.structs.replace(self._init, keys=tuple(keys))
        for child in self._children:
            child.write(ReplaceKeys(tuple(keys)))

    async def send(self, request: PushRequest) -> SendResult:
        """Send one push from the process with the fewest pending requests. If the process dies, the push is retried."""
        with self._in_flight:
            child = self._find_least_busy() or await self._wait_for_ready()
            if child is None:
                return SendResult(
                    retry_or_give_up("no sender process is running", self._build_attempt_context(request.attempt))
                )
            return await child.submit(request)

    async def close(self) -> None:
        """Wait for sends in flight, then stop the processes."""
        await self._in_flight.wait_idle()
        for child in self._children:
            child.stop()
        await asyncio.gather(*self._supervisor_tasks)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the processes that are ready."""
        ready = (child for child in self._children if child.ready.is_set())
        return tuple(child.process.pid for child in ready if child.process is not None)

    def _find_least_busy(self) -> _ChildSupervisor | None:
        best: _ChildSupervisor | None = None
        for child in self._children:
            if child.ready.is_set() and (best is None or len(child.pending) < len(best.pending)):
                best = child
        return best

    async def _wait_for_ready(self) -> _ChildSupervisor | None:
        waits = [asyncio.create_task(child.ready.wait()) for child in self._children]
        await asyncio.wait(waits, timeout=self._timeouts.wait_for_ready, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return self._find_least_busy()

    def _build_child_failure(self, attempt: int) -> SendResult:
        # counts as an attempt: a message that crashes its process must not be retried forever
        return SendResult(retry_or_give_up("a sender process died while sending", self._build_attempt_context(attempt)))

    def _build_attempt_context(self, number: int) -> AttemptContext:
        return AttemptContext(self._clock.now(), number, self._jitter())
