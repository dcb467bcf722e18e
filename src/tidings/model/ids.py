"""Identifiers that sort by the time they were made: UUID version 7 (RFC 9562 §5.7)."""

import os
import re
import threading
from datetime import datetime

_lock = threading.Lock()
_last = 0
#: the first digit of the variant field, whose two highest bits are 10 (RFC 9562 §4.1), from any digit
_VARIANT = {f"{digit:x}": f"{digit & 0b11 | 0b1000:x}" for digit in range(16)}
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id(now: datetime) -> str:
    """Return a new UUIDv7 as 36 lower-case characters.

    Ids made in one process sort in the order they were made even within a millisecond: the 12 bits after the
    time stamp are a sub-millisecond fraction, raised by one when two calls fall together (RFC 9562 §6.2, method 3).
    """
    global _last
    ticks = int(now.timestamp() * 1_000_000) * 4096 // 1000
    with _lock:
        ticks = _last = max(ticks, _last + 1)
    milliseconds, fraction = divmod(ticks, 4096)
    # in pieces of a machine word, not as one number of 128 bits: an accepted request takes four of these
    time = f"{milliseconds:012x}"
    tail = os.urandom(8).hex()
    variant = _VARIANT[tail[0]]
    return f"{time[:8]}-{time[8:]}-7{fraction:03x}-{variant}{tail[1:4]}-{tail[4:]}"


def is_id(text: str) -> bool:
    """Say whether a text has the form of our own ids: a UUID of 36 lower-case characters."""
    return _ID.fullmatch(text) is not None
