"""What becomes of one item of a digest that closes. Pure, but for the texts, which are rendered on demand."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from tidings.errors import ValidationFailed
from tidings.flow.digest.item_check import ItemChecks, ItemContext
from tidings.flow.plan.digest_content import MAX_SHOWN_ITEMS
from tidings.model.decision import Skip
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.digest import Digest
from tidings.model.notification import Notification
from tidings.model.template import RenderedMessage


class ItemContent(NamedTuple):
    """An item that stays in its digest, and its text."""

    notification: Notification
    recipient: Recipient
    #: those that show it, or count it
    channels: Collection[str]
    #: the other channels of the digest, with the reason
    left_out_on: Mapping[str, Skip]
    #: None = each of its channels has enough items to show without it
    message: RenderedMessage | None


def decide_item(
    digest: Digest,
    facts: ItemContext,
    checks: ItemChecks,
    now: datetime,
    *,
    counts: Mapping[str, int],
    render: Callable[[Notification, Recipient], RenderedMessage],
) -> Skip | ItemContent:
    """Return why an item is left out of its digest, or where and with which text it stays.

    counts: channel → items before it. render: returns the text of an item, raises ValidationFailed.
    """
    notification, recipient = facts.notification, facts.recipient
    if notification is None:
        return Skip(SkipReason.EXPIRED)
    left_out_on = checks.check(facts, notification.id)
    if isinstance(left_out_on, Skip):
        return left_out_on
    if digest.is_overdue(facts.item, now):
        return _describe_delay(digest)
    assert recipient is not None, "the check leaves out the items of erased users"
    channels = [one for one in facts.channels if one not in left_out_on] if left_out_on else facts.channels
    message = None
    if any(counts.get(channel, 0) < MAX_SHOWN_ITEMS for channel in channels):
        try:
            message = render(notification, recipient)
        except ValidationFailed as error:
            return Skip(SkipReason.RENDER_FAILED, {"error": error.message})
    return ItemContent(notification, recipient, channels, left_out_on, message)


def _describe_delay(digest: Digest) -> Skip:
    assert digest.catch_up is not None, "only such a digest is overdue"
    detail = {
        "dueAt": digest.closes_at.isoformat(timespec="seconds"),
        "catchUpSeconds": int(digest.catch_up.total_seconds()),
    }
    return Skip(SkipReason.DIGEST_OVERDUE, detail)
