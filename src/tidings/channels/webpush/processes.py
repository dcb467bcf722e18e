"""A pool of sender processes: encryption costs about 105 µs of one core a message and holds the interpreter lock."""

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from tidings.channels.webpush.frames import FromProcess, Keys, Pipe, Ready, Results, Setup, Work, unflatten
from tidings.channels.webpush.in_flight import InFlight
from tidings.channels.webpush.policy import Attempt, retry
from tidings.channels.webpush.request import PushRequest
from tidings.channels.webpush.signs import Sent
from tidings.errors import BackendError
from tidings.model.subscription import VapidKey
from tidings.ports.clock import Clock

_MODULE = "tidings.channels.webpush.sender_process"
_decode = msgspec.msgpack.Decoder(FromProcess).decode


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of the pool, in seconds."""

    #: from starting a process to its first frame
    start: float = 20.0
    #: a process that leaves a request unanswered for so long (transport gives up after 10) is replaced
    stuck: float = 60.0
    #: pause after a process that died young, so that a broken installation does not spin
    pause: float = 1.0
    #: how long a send waits while no process is up
    no_process: float = 5.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    future: asyncio.Future[Sent]
    attempt: int
    #: time of the loop
    since: float


class _Slot:
    """One place in the pool, held by one process after another."""

    def __init__(self, setup: Callable[[], Setup], fail: Callable[[int], Sent], limits: PoolLimits) -> None:
        self._setup = setup
        self._fail = fail
        self._limits = limits
        self._outgoing: list[tuple[int, PushRequest]] = []
        self._numbers = 0
        self._pipe: Pipe | None = None
        # a word, not a cancellation: that could hit while a process is being started or reaped and leave it behind
        self._stopped = asyncio.Event()
        self.waiting: dict[int, _Waiting] = {}
        self.ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None

    def submit(self, request: PushRequest) -> asyncio.Future[Sent]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sent] = loop.create_future()
        self._numbers += 1
        self.waiting[self._numbers] = _Waiting(future, request.attempt, loop.time())
        if not self._outgoing:
            # one frame for all that is submitted in this turn of the loop
            loop.call_soon(self._flush)
        self._outgoing.append((self._numbers, request))
        return future

    def write(self, frame: Keys) -> None:
        if self._pipe is not None:
            self._pipe.write(frame)

    def stop(self) -> None:
        """Let the process go; `live` then returns."""
        self._stopped.set()
        if self._pipe is not None:
            self._pipe.close()

    async def live(self) -> None:
        """Start a process, serve until it is gone, and again, until stopped."""
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set():
            born = loop.time()
            try:
                await self._one_life()
            except OSError as error:
                # no memory or no file descriptors left: others may free some, so try again after the pause
                loop.call_exception_handler({"message": "a sender process cannot be started", "exception": error})
            finally:
                self._end_waiting()
            if loop.time() - born < self._limits.pause:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.pause):
                        await self._stopped.wait()

    async def _one_life(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    _MODULE,
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.DEVNULL,
                )
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            _, pipe = await loop.create_connection(lambda: Pipe(self._take), sock=ours)
        except BaseException:
            ours.close()
            raise
        self._pipe = pipe
        try:
            pipe.write(self._setup())
            await self._watch(pipe)
        finally:
            self.ready.clear()
            self._pipe = None
            pipe.close()
            await self._reap(self.process)
            await asyncio.wait({pipe.lost}, timeout=self._limits.pause)

    async def _watch(self, pipe: Pipe) -> None:
        """Return when the process is gone, or has not answered for too long."""
        loop = asyncio.get_running_loop()
        born = loop.time()
        while not pipe.lost.done() and not self._stopped.is_set():
            await asyncio.wait({pipe.lost}, timeout=self._limits.stuck / 4)
            oldest = next(iter(self.waiting.values()), None)
            if oldest is not None and loop.time() - oldest.since > self._limits.stuck:
                return
            if not self.ready.is_set() and loop.time() - born > self._limits.start:
                return

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """The closed pipe ends the process; one that does not notice is killed."""
        try:
            async with asyncio.timeout(self._limits.pause):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _take(self, raw: bytes) -> None:
        match _decode(raw):
            case Ready():
                self.ready.set()
            case Results(results):
                for result in results:
                    entry = self.waiting.pop(result.number, None)
                    if entry is not None and not entry.future.done():
                        entry.future.set_result(unflatten(result))

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._pipe is not None:
            self._pipe.write(Work(outgoing))

    def _end_waiting(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for entry in waiting.values():
            if not entry.future.done():
                entry.future.set_result(self._fail(entry.attempt))


class SenderPool:
    """Sends pushes from `size` processes, many in flight in each; the same interface as `Sender`."""

    def __init__(
        self, size: int, setup: Setup, *, clock: Clock, jitter: Callable[[], float], limits: PoolLimits | None = None
    ) -> None:
        """`setup` is what each process is told at its start. `jitter` returns a random number, 0 ≤ n < 1."""
        self._limits = limits or PoolLimits()
        self._setup = setup
        self._clock = clock
        self._jitter = jitter
        self._slots = [_Slot(lambda: self._setup, self._process_died, self._limits) for _ in range(size)]
        self._lives: list[asyncio.Task[None]] = []
        self._in_flight = InFlight()

    async def open(self) -> None:
        """Start the processes. Raises BackendError if one does not come up; its own words are on standard error."""
        self._lives = [asyncio.create_task(slot.live()) for slot in self._slots]
        try:
            async with asyncio.timeout(self._limits.start):
                await asyncio.gather(*(slot.ready.wait() for slot in self._slots))
        except TimeoutError:
            await self.close()
            raise BackendError("the sender processes do not start; see the messages above") from None

    def set_keys(self, keys: Sequence[VapidKey]) -> None:
        """Replace the known VAPID keys in every process, the ones to come included."""
        self._setup = msgspec.structs.replace(self._setup, keys=tuple(keys))
        for slot in self._slots:
            slot.write(Keys(tuple(keys)))

    async def send(self, request: PushRequest) -> Sent:
        """Send one push from the process with the least to do. If that dies, the push is deferred."""
        with self._in_flight:
            slot = self._least_busy() or await self._next_ready()
            if slot is None:
                return Sent(retry("no sender process is running", self._attempt(request.attempt)))
            return await slot.submit(request)

    async def close(self) -> None:
        """Let what is in flight end, then end the processes."""
        await self._in_flight.ended()
        for slot in self._slots:
            slot.stop()
        await asyncio.gather(*self._lives)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the processes that are up."""
        return tuple(slot.process.pid for slot in self._slots if slot.ready.is_set() and slot.process is not None)

    def _least_busy(self) -> _Slot | None:
        best: _Slot | None = None
        for slot in self._slots:
            if slot.ready.is_set() and (best is None or len(slot.waiting) < len(best.waiting)):
                best = slot
        return best

    async def _next_ready(self) -> _Slot | None:
        waits = [asyncio.create_task(slot.ready.wait()) for slot in self._slots]
        await asyncio.wait(waits, timeout=self._limits.no_process, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return self._least_busy()

    def _process_died(self, attempt: int) -> Sent:
        # it spends an attempt: a message that kills its process must not do so for ever
        return Sent(retry("a sender process died while sending", self._attempt(attempt)))

    def _attempt(self, number: int) -> Attempt:
        return Attempt(self._clock.now(), number, self._jitter())
