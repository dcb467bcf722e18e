"""Ids that sort by creation time: UUID version 7 (RFC 9562 §5.7)."""

import os
import re
import threading
from datetime import datetime

_lock = threading.Lock()
_last_ticks = 0
_UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id(now: datetime) -> str:
    """Return a new UUIDv7 as 36 lower-case characters.

    Ids of one process sort in order of creation even within a millisecond: the 12 bits after the timestamp hold a
    fraction of the millisecond, incremented when two calls coincide (RFC 9562 §6.2, method 3).
    """
    global _last_ticks
    ticks = int(now.timestamp() * 1_000_000) * 4096 // 1000
    with _lock:
        ticks = _last_ticks = max(ticks, _last_ticks + 1)
    milliseconds, fraction = divmod(ticks, 4096)
    tail = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF
    value = (milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_id(text: str) -> bool:
    """Return whether a text has the form of an id: a UUID of 36 lower-case characters."""
    return _UUID_PATTERN.fullmatch(text) is not None
