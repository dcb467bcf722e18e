"""Log of received pushes: counters, the latest messages, and a receipt of every accepted message."""

import asyncio
import tempfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from tidings.mockpush.responses import Refusal

#: receipts counted per pass over the log; it limits the memory of a pass to about 60 MB
_RECEIPTS_PER_PASS = 250_000
_LINES_PER_CHUNK = 1000
#: buckets of a DigestSet, and bytes per digest
_BUCKETS = 1 << 16
_WIDTH = 8


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """One refused message with the reason."""

    device: str
    status: int
    reason: str
    message: str
    #: Unix time, seconds
    at: float


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """Counters since the start or the last reset."""

    #: all pushes, accepted or not
    received: int
    #: accepted pushes (2xx, or accepted with a lost response)
    accepted: int
    #: accepted pushes that differ in device or Topic; each one without a Topic is distinct
    distinct: int
    #: accepted pushes that repeat the device and Topic of an earlier one
    duplicates: int
    #: accepted pushes that were decrypted and validated
    verified: int
    #: responses per status; `hang` and `lost` if there was none
    by_status: Mapping[str, int]
    #: the last 20 refusals
    failures: Sequence[Failure]
    #: Unix time of the first and the last push received, seconds; None before the first
    first_at: float | None
    last_at: float | None


class AcceptedMessage(msgspec.Struct, frozen=True):
    """One accepted message, still encrypted; it is decrypted only on request."""

    #: sequence number of accepted messages, starting at 1
    number: int
    device: str
    topic: str
    #: Unix time, seconds
    received_at: float
    body: bytes


class ReceiptLog:
    """Counts pushes and keeps messages and receipts for tests and benchmarks. Not thread-safe."""

    def __init__(self, keep: int, *, timed: str = "") -> None:
        """Arguments: keep — number of latest messages to keep; timed — prefix of the device ids whose receipts are
        kept with their time, empty = none."""
        self._timed_prefix = timed
        self._messages: deque[AcceptedMessage] = deque(maxlen=keep)
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        # On disk, because the log of all receipts must not use memory in a long run.
        self._log = tempfile.TemporaryFile(buffering=1 << 18)  # noqa: SIM115  # closed by close()
        self.reset()

    def reset(self) -> None:
        """Delete everything."""
        self._distinct_receipts = DigestSet()
        self._times: list[tuple[str, float]] = []
        self._messages.clear()
        self._log.seek(0)
        self._log.truncate()
        self._failures: deque[Failure] = deque(maxlen=20)
        self._by_status: Counter[str] = Counter()
        self._first_at: float | None = None
        self._last_at: float | None = None
        self.received = self.accepted = self.distinct = self.verified = 0

    def close(self) -> None:
        """Delete the log file."""
        self._log.close()

    def count_received(self, at: float) -> None:
        """Count a push that was received at Unix time `at`."""
        self.received += 1
        self._last_at = at
        if self._first_at is None:
            self._first_at = at

    def record_accepted(self, device: str, topic: str, body: bytes, at: float, *, verified: bool) -> int:
        """Record an accepted message and return its number."""
        self.accepted += 1
        self.verified += verified
        receipt = f"{device}\t{topic}\n".encode()
        if not topic or self._distinct_receipts.add(receipt):
            self.distinct += 1
        self._log.write(receipt)
        if self._timed_prefix and device.startswith(self._timed_prefix):
            self._times.append((device, at))
        self._messages.append(AcceptedMessage(self.accepted, device, topic, at, body))
        return self.accepted

    def count_response(self, status: str) -> None:
        """Count a response by its status, or `hang` or `lost` if there is none."""
        self._by_status[status] += 1
        if self._waiters:
            self._wake()

    def record_refusal(self, device: str, refusal: Refusal, at: float) -> None:
        """Record a refused message with the reason."""
        self._failures.append(Failure(device, refusal.status, refusal.reason, refusal.message, at))
        self.count_response(str(refusal.status))

    def stats(self) -> Stats:
        """Return the current counters."""
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

    def list_messages(
        self, *, limit: int, after: int | None = None, device: str | None = None
    ) -> Sequence[AcceptedMessage]:
        """Return kept messages, oldest first: the first `limit` after number `after`, or without it the latest."""
        matching = [m for m in self._messages if m.number > (after or 0) and device in (None, m.device)]
        return matching[:limit] if after is not None else matching[max(0, len(matching) - limit) :]

    def times(self) -> Sequence[tuple[str, float]]:
        """Return (device, Unix time) of every message accepted for a timed device, in order."""
        return tuple(self._times)

    def receipts(self) -> Iterator[Sequence[tuple[str, str, int]]]:
        """Yield (device, topic, count) of every accepted message, in chunks; messages received meanwhile are left out.

        The log is read once per 250 000 receipts; each pass counts the receipts of one hash partition.
        """
        end, passes = self._log.tell(), self.accepted // _RECEIPTS_PER_PASS + 1
        for partition in range(passes):
            counts = Counter(line for line in self._lines(end) if zlib.crc32(line) % passes == partition)
            rows = [_parse_receipt(line, count) for line, count in counts.items()]
            for at in range(0, len(rows), _LINES_PER_CHUNK):
                yield rows[at : at + _LINES_PER_CHUNK]

    async def wait(self, counter: str, reached: int) -> None:
        """Wait until `received`, `accepted`, `distinct` or `verified` is at least `reached`."""
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
            # Explicit offsets, because receipts are appended to the same file between two chunks.
            self._log.seek(start)
            block = self._log.read(min(1 << 20, end - start))
            self._log.seek(0, 2)
            complete_lines = block[: block.rfind(b"\n") + 1]
            yield from complete_lines.splitlines(keepends=True)
            start += len(complete_lines)


def _parse_receipt(line: bytes, count: int) -> tuple[str, str, int]:
    device, topic = line.decode().rstrip("\n").split("\t")
    return device, topic, count


class DigestSet:
    """A compact set of 64-bit digests: about 18 bytes per member (measured with a million), without rehashing pauses.

    A Python set of a million 64-bit numbers takes about 75 MB, and each growth would delay responses that are timed.
    A million keys collide with a probability of about 3 in 10**8.
    """

    def __init__(self) -> None:
        self._buckets: list[bytearray | None] = [None] * _BUCKETS
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: bytes) -> bool:
        """Add a key and return whether it is new."""
        number = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        digest = number.to_bytes(_WIDTH, "little")
        slot = number % _BUCKETS
        bucket = self._buckets[slot]
        if bucket is None:
            self._buckets[slot] = bytearray(digest)
        elif _contains(bucket, digest):
            return False
        else:
            bucket += digest
        self._size += 1
        return True


def _contains(bucket: bytearray, digest: bytes) -> bool:
    at = bucket.find(digest)
    while at >= 0 and at % _WIDTH:  # a match across two digests does not count
        at = bucket.find(digest, at + 1)
    return at >= 0
