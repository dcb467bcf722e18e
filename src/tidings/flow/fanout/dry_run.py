"""Dry run: an estimate of a notification's effect, summed up over planned pages. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidings.model.delivery import PlannedDelivery, Recipient, SkipReason, SkipRecord

#: users planned for a dry run at most; the counts of a larger audience cover only these
MAX_EXAMINED_USERS = 20_000
_SAMPLE_SIZE = 10


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """The result of a dry run."""

    #: users in the audience
    recipients: int
    #: users that the counts below cover; fewer than `recipients` in a very large audience
    examined: int
    #: deliveries per channel
    by_channel: Mapping[str, int]
    #: skips per reason
    skipped: Mapping[SkipReason, int]
    #: ids of the first ten recipients
    sample: Sequence[str]
    #: recipients for whom a digest would collect it
    collected: int = 0


class DryRunEstimate:
    """Accumulates planned pages."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._examined = 0
        self._by_channel: Counter[str] = Counter()
        self._skipped: Counter[SkipReason] = Counter()
        self._sample: list[str] = []
        self._collected = 0

    @property
    def is_complete(self) -> bool:
        """Whether enough users were examined."""
        return self._examined >= MAX_EXAMINED_USERS

    def add_page(
        self,
        page: Sequence[Recipient],
        planned: Sequence[PlannedDelivery],
        skipped: Sequence[SkipRecord],
        collected: int = 0,
    ) -> None:
        self._collected += collected
        self._examined += len(page)
        self._by_channel.update(delivery.channel for delivery in planned)
        self._skipped.update(skip.reason for skip in skipped)
        self._sample.extend(recipient.user_id for recipient in page[: _SAMPLE_SIZE - len(self._sample)])

    def result(self) -> DryRunResult:
        return DryRunResult(self._total, self._examined, self._by_channel, self._skipped, self._sample, self._collected)
