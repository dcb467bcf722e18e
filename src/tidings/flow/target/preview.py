"""What a notification would reach, counted before anything is sent (dry run). Pure sums over planned pages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidings.model.delivery import Planned, Recipient, Skipped, SkipReason

#: users planned for a preview; beyond that the shares are those of the users looked at
LOOKED_AT = 20_000


@dataclass(frozen=True, slots=True)
class Preview:
    """An estimate of audience and reach (MISSION M3, B3)."""

    #: users in the audience
    recipients: int
    #: users that were planned to get the figures below; fewer than `recipients` in a very large audience
    examined: int
    #: messages per channel
    by_channel: Mapping[str, int]
    #: skips per reason
    skipped: Mapping[SkipReason, int]
    #: ids of the first few recipients
    sample: Sequence[str]


class Tally:
    """Sums up planned pages."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._examined = 0
        self._by_channel: Counter[str] = Counter()
        self._skipped: Counter[SkipReason] = Counter()
        self._sample: list[str] = []

    @property
    def enough(self) -> bool:
        """Whether no more pages are wanted."""
        return self._examined >= LOOKED_AT

    def add(self, page: Sequence[Recipient], planned: Sequence[Planned], skipped: Sequence[Skipped]) -> None:
        self._examined += len(page)
        self._by_channel.update(one.channel for one in planned)
        self._skipped.update(one.reason for one in skipped)
        self._sample.extend(one.user_id for one in page[: 10 - len(self._sample)])

    def preview(self) -> Preview:
        return Preview(self._total, self._examined, self._by_channel, self._skipped, self._sample)
