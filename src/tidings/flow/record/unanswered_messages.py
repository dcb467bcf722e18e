"""Notes that providers took messages, so that one that reports nothing of them is noticed."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from tidings.model.delivery import AttemptResult
from tidings.model.outcome import Accepted
from tidings.ports.provider_events import Receipts
from tidings.ports.store import Transaction

#: between two notes of a process about a channel; a silence lasts for hours
NOTE_EVERY = timedelta(minutes=1)


class UnansweredMessages:
    """One per process. A note costs a statement per channel and minute."""

    def __init__(self, receipts: Receipts, channels: Collection[str]) -> None:
        """channels: those of which a provider can report events."""
        self._receipts = receipts
        self._channels = frozenset(channels)
        self._noted_at: dict[str, datetime] = {}

    async def record(self, tx: Transaction, results: Sequence[AttemptResult], now: datetime) -> None:
        """Note the channels over which messages were accepted."""
        if not self._channels:
            return
        accepted = {result.channel for result in results if isinstance(result.outcome, Accepted)}
        for channel in sorted(accepted & self._channels):
            noted_at = self._noted_at.get(channel)
            if noted_at is None or now - noted_at >= NOTE_EVERY:
                await self._receipts.record_unanswered(tx, channel, now)
                self._noted_at[channel] = now
