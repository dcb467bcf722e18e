"""The check of the items of a digest when it closes: the rules of the plan, with the data of now. Pure."""

from collections.abc import Collection, Mapping

import msgspec

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.flow.plan.chain import decide
from tidings.flow.plan.collection import list_collected_channels
from tidings.model.decision import Skip
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.digest import DigestItem
from tidings.model.notification import Notification, NotificationState


class ItemContext(msgspec.Struct, frozen=True):
    """What is known of an item when its digest closes."""

    item: DigestItem
    #: None = it was deleted
    notification: Notification | None
    #: None = the user was erased
    recipient: Recipient | None
    #: the configured channels
    channels: Collection[str]
    is_in_audience: bool = True


def check_item(facts: ItemContext, context: PlanContext) -> Skip | None:
    """Return why an item is left out of the digest, None if it stays.

    It stays if a message on at least one of its channels would be planned now. The rules that hold a message, such as
    quiet hours, apply to the digest and not to its items.
    """
    notification, recipient = context.notification, facts.recipient
    if facts.item.is_seen:
        return Skip(SkipReason.SEEN)
    if recipient is None:
        return Skip(SkipReason.USER_ERASED)
    found: Skip | None = None
    for channel in list_collected_channels(notification) or facts.channels:
        decision = decide(_build_candidate(channel, recipient, notification, facts), context).decision
        if not isinstance(decision, Skip):
            return None
        found = found or _with_channel(decision, channel)
    return found or Skip(SkipReason.CHANNEL_NOT_SET_UP)


def _build_candidate(channel: str, recipient: Recipient, notification: Notification, facts: ItemContext) -> Candidate:
    return Candidate(
        recipient.user_id,
        channel,
        recipient.preferences,
        has_contact_point=bool(recipient.targets.get(channel)),
        timezone=recipient.timezone,
        is_in_audience=facts.is_in_audience,
        is_cancelled=notification.state is NotificationState.CANCELLED,
    )


def _with_channel(skip: Skip, channel: str) -> Skip:
    detail: Mapping[str, object] = {"channel": channel, **skip.detail}
    return Skip(skip.reason, detail)
