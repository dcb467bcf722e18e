"""Frequency caps: how many notifications of all categories together a user receives in a period."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tidings.model.template import MAX_HOURLY_LIMIT

_CAP = re.compile(r"(?P<limit>\d{1,6})/(?P<period>hour|day|week|month)", re.ASCII)
_PERIODS: Final = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
}


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """The number of notifications that a user may receive in a period, of all categories together."""

    limit: int
    #: `hour`, `day`, `week`, `month`
    period: str

    @property
    def window(self) -> timedelta:
        """Length of the sliding window."""
        return _PERIODS[self.period]


def parse_frequency_caps(items: Sequence[str]) -> tuple[FrequencyCap, ...]:
    """Return the caps of texts such as `3/day`, the shortest window first. Raises ValueError for other texts."""
    caps: dict[str, FrequencyCap] = {}
    for item in items:
        found = _CAP.fullmatch(item)
        if found is None or not 1 <= int(found["limit"]) <= MAX_HOURLY_LIMIT:
            raise ValueError(
                f"{item!r} is not a number from 1 to {MAX_HOURLY_LIMIT} per hour, day, week or month; an example is "
                "3/day,10/week"
            )
        if found["period"] in caps:
            raise ValueError(f"{item!r} is a second cap per {found['period']}; keep one")
        caps[found["period"]] = FrequencyCap(int(found["limit"]), found["period"])
    return tuple(sorted(caps.values(), key=lambda cap: cap.window))
