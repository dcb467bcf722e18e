"""What arrived: counters, the last messages, and a log of every receipt, so that a test can act as the oracle."""

import asyncio
import tempfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from tidings.testing.mock_push.digest_set import DigestSet
from tidings.testing.mock_push.refusal import Refusal

#: receipts counted at a time when the log is read: bounds the memory of one reading to about 60 MB
_COUNTED_AT_ONCE = 250_000
_LINES_A_CHUNK = 1000


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """One message that was refused, and why."""

    device: str
    status: int
    reason: str
    message: str
    #: Unix time, seconds
    at: float


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """Counters since the start or the last reset."""

    #: pushes that came in, whatever became of them
    received: int
    #: pushes that were taken (2xx, or taken and the answer lost)
    accepted: int
    #: accepted ones that differ in device or Topic; without a Topic each counts as distinct
    distinct: int
    #: accepted ones that repeat the device and Topic of an earlier one
    duplicates: int
    #: accepted ones that were decrypted and checked
    verified: int
    #: answers per status; `hang` and `lost` where there was none
    by_status: Mapping[str, int]
    #: the last 20 refusals
    failures: Sequence[Failure]
    #: Unix time of the first and the last push received, seconds; None before the first
    first_at: float | None
    last_at: float | None


class Arrived(msgspec.Struct, frozen=True):
    """One accepted message as it came; opened only when somebody asks for it."""

    #: counts accepted messages from 1
    number: int
    device: str
    topic: str
    #: Unix time, seconds
    received_at: float
    body: bytes


class Ledger:
    """Counts pushes and keeps what a test or a benchmark asks for. Not thread-safe: one event loop owns it."""

    def __init__(self, keep: int, *, timed: str = "") -> None:
        """Arguments: keep — how many of the last messages to keep; timed — first letters of the devices whose receipts
        are kept with their time, empty = none."""
        self._timed = timed
        self._arrived: deque[Arrived] = deque(maxlen=keep)
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        # On disk, because a log of every receipt must not grow the memory of a long run.
        self._log = tempfile.TemporaryFile(buffering=1 << 18)  # noqa: SIM115  # closed by close()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._seen = DigestSet()
        self._times: list[tuple[str, float]] = []
        self._arrived.clear()
        self._log.seek(0)
        self._log.truncate()
        self._failures: deque[Failure] = deque(maxlen=20)
        self._by_status: Counter[str] = Counter()
        self._first_at: float | None = None
        self._last_at: float | None = None
        self.received = self.accepted = self.distinct = self.verified = 0

    def close(self) -> None:
        """Remove the log."""
        self._log.close()

    def arrive(self, at: float) -> None:
        """Count a push that came in at Unix time `at`."""
        self.received += 1
        self._last_at = at
        if self._first_at is None:
            self._first_at = at

    def accept(self, device: str, topic: str, body: bytes, at: float, *, verified: bool) -> int:
        """Count a message as taken and return its number."""
        self.accepted += 1
        self.verified += verified
        receipt = f"{device}\t{topic}\n".encode()
        if not topic or self._seen.add(receipt):
            self.distinct += 1
        self._log.write(receipt)
        if self._timed and device.startswith(self._timed):
            self._times.append((device, at))
        self._arrived.append(Arrived(self.accepted, device, topic, at, body))
        return self.accepted

    def answered(self, status: str) -> None:
        """Count an answer; `hang` or `lost` for none."""
        self._by_status[status] += 1
        if self._waiters:
            self._wake()

    def refuse(self, device: str, refusal: Refusal, at: float) -> None:
        """Count a message that was refused, and keep the reason."""
        self._failures.append(Failure(device, refusal.status, refusal.reason, refusal.message, at))
        self.answered(str(refusal.status))

    def stats(self) -> Stats:
        """Return the counters of this moment."""
        return Stats(
            received=self.received,
            accepted=self.accepted,
            distinct=self.distinct,
            duplicates=self.accepted - self.distinct,
            verified=self.verified,
            by_status=dict(self._by_status),
            failures=tuple(self._failures),
            first_at=self._first_at,
            last_at=self._last_at,
        )

    def arrived(self, *, limit: int, after: int | None = None, device: str | None = None) -> Sequence[Arrived]:
        """Return kept messages, oldest first: the first `limit` numbered above `after`, or without it the last ones."""
        fitting = [m for m in self._arrived if m.number > (after or 0) and device in (None, m.device)]
        return fitting[:limit] if after is not None else fitting[max(0, len(fitting) - limit) :]

    def times(self) -> Sequence[tuple[str, float]]:
        """Return (device, Unix time) of every message taken for a timed device, in order."""
        return tuple(self._times)

    def receipts(self) -> Iterator[Sequence[tuple[str, str, int]]]:
        """Yield (device, topic, count) of every accepted message, in chunks; what arrives meanwhile is left out.

        The log is read once per 250 000 receipts, each time counting its own share of them.
        """
        end, rounds = self._log.tell(), self.accepted // _COUNTED_AT_ONCE + 1
        for part in range(rounds):
            counted = Counter(line for line in self._lines(end) if zlib.crc32(line) % rounds == part)
            rows = [_row(line, count) for line, count in counted.items()]
            for at in range(0, len(rows), _LINES_A_CHUNK):
                yield rows[at : at + _LINES_A_CHUNK]

    async def wait(self, counter: str, reached: int) -> None:
        """Return when `received`, `accepted`, `distinct` or `verified` is at least `reached`."""
        if getattr(self, counter) >= reached:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (lambda: getattr(self, counter) >= reached, future)
        self._waiters.append(waiter)
        try:
            await future
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        for ready, future in self._waiters:
            if ready() and not future.done():
                future.set_result(None)

    def _lines(self, end: int) -> Iterator[bytes]:
        self._log.flush()
        start = 0
        while start < end:
            # Own offsets: writing goes on at the end of the same file between two chunks.
            self._log.seek(start)
            block = self._log.read(min(1 << 20, end - start))
            self._log.seek(0, 2)
            whole = block[: block.rfind(b"\n") + 1]
            yield from whole.splitlines(keepends=True)
            start += len(whole)


def _row(line: bytes, count: int) -> tuple[str, str, int]:
    device, topic = line.decode().rstrip("\n").split("\t")
    return device, topic, count
