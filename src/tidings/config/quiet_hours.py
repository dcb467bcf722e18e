"""The quiet hours of the installation, as the setting gives them."""

import re
from collections.abc import Sequence

from tidings.model.user_schedule import QuietHours, has_free_time

_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d"
_ITEM = re.compile(rf"(?:(?P<channel>[a-z0-9_-]+)=)?(?P<start>{_TIME})-(?P<end>{_TIME})", re.ASCII)


def parse_quiet_hours(items: Sequence[str]) -> tuple[QuietHours, ...]:
    """Return the quiet hours of a setting: `22:00-07:00` or `webpush=22:00-07:00` each. Raises ValueError."""
    windows = []
    for item in items:
        found = _ITEM.fullmatch(item)
        if found is None or found["start"] == found["end"]:
            raise ValueError(f"{item!r} is not HH:MM-HH:MM with two different times; an example is 22:00-07:00")
        channels = (found["channel"],) if found["channel"] else ()
        windows.append(QuietHours(found["start"], found["end"], channels=channels))
    parsed = tuple(windows)
    if not all(has_free_time(parsed, name) for name in {"", *(name for one in parsed for name in one.channels)}):
        raise ValueError("leave no free time in the week, so that nothing could ever be sent")
    return parsed
