"""Sentences on digests for `explain`: what collected a notification, what became of it, and what a digest contains."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from tidings.model.delivery import SkipReason
from tidings.model.digest import LEFT_OUT_ON, Digest, DigestItem, DigestItemState
from tidings.model.notification import Notification

#: (reason, channel, moment, detail) → sentence
FormatReason = Callable[[SkipReason, str, datetime, Mapping[str, object]], str]


class DigestHistory(NamedTuple):
    """What digests have to do with a notification and a user."""

    #: the item that the notification became, with its digest; None = it was not collected
    collected: tuple[DigestItem, Digest] | None = None
    #: the digest that became the notification; None = it is not that of a digest
    origin: Digest | None = None
    #: the items of that digest
    items: Sequence[DigestItem] = ()


NO_DIGESTS = DigestHistory()


def iter_digest_sentences(
    facts: DigestHistory,
    notification: Notification,
    format_reason: FormatReason,
    format_instant: Callable[[datetime], str],
) -> Iterator[str]:
    """Yield the sentences on digests."""
    if facts.collected is not None:
        yield _format_collected(*facts.collected, format_reason, format_instant)
    if facts.origin is not None:
        counts = [item.state for item in facts.items]
        left_out = counts.count(DigestItemState.LEFT_OUT)
        rest = f"; {left_out} more were left out when it closed" if left_out else ""
        yield (
            f"It is the digest {facts.origin.id} of {counts.count(DigestItemState.DIGESTED)} notifications, opened at "
            f"{format_instant(facts.origin.opened_at)}{rest}. It was rendered with version "
            f"{notification.template_version} of template {notification.template_code}, its items with version "
            f"{facts.origin.template_version} of {facts.origin.key.template_code}."
        )


def _format_collected(
    item: DigestItem, digest: Digest, format_reason: FormatReason, format_instant: Callable[[datetime], str]
) -> str:
    where = f"Digest {digest.id}" + (f" (key {digest.key.key})" if digest.key.key else "")
    match item.state:
        case DigestItemState.COLLECTED:
            return f"{where} has collected it; it closes at {format_instant(digest.closes_at)}."
        case DigestItemState.DIGESTED:
            closed_at = format_instant(digest.closed_at or digest.closes_at)
            became = f"{where} had collected it and became notification {digest.notification_id} at {closed_at}."
            return became + _format_channels(item, digest.closed_at or digest.closes_at, format_reason)
        case DigestItemState.LEFT_OUT:
            moment = digest.closed_at or digest.closes_at
            channel = str(item.detail.get("channel", "the digest"))
            reason = format_reason(item.reason or SkipReason.EXPIRED, channel, moment, item.detail)
            nothing_left = (
                "" if digest.notification_id else " Nothing was left of the digest, so it was not sent (empty_digest)."
            )
            return f"{where} had collected it and left it out when it closed: {reason}{nothing_left}"


def _format_channels(item: DigestItem, closed_at: datetime, format_reason: FormatReason) -> str:
    """Return the channels on which the digest does not show the item, with the reasons, or nothing."""
    left_out_on = item.detail.get(LEFT_OUT_ON)
    if not isinstance(left_out_on, Mapping):
        return ""
    return "".join(
        f" It is not shown on {channel}: {format_reason(SkipReason(inputs['reason']), channel, closed_at, inputs)}"
        for channel, inputs in left_out_on.items()
    )
