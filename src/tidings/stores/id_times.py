"""The time inside our ids: UUIDv7 sorts by it (RFC 9562 §5.7), so an index of ids is an index of time too."""

from datetime import datetime


def earliest_id(at: datetime) -> str:
    """Return what sorts before every id made at an instant or later, and after every id made before it.

    It counts as `tidings.model.ids.new_id` does: milliseconds and 4096ths of one. An id of a burst within one clock
    reading sorts a little later than that reading says.
    """
    milliseconds, fraction = divmod(int(at.timestamp() * 1_000_000) * 4096 // 1000, 4096)
    text = f"{(milliseconds << 16) | (0x7 << 12) | fraction:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:]}-8000-000000000000"
