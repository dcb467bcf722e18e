"""The check of the items of a digest when it closes: the rules of the plan, with the data of now. Pure."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import msgspec

from tidings.flow.plan.candidate import Candidate, PlanContext
from tidings.flow.plan.chain import decide
from tidings.flow.plan.collection import list_collected_channels
from tidings.model.decision import Skip
from tidings.model.delivery import Recipient, SkipReason
from tidings.model.digest import DigestItem
from tidings.model.notification import Notification, NotificationState
from tidings.model.preference import Preference

#: of decisions that may differ between the items of a digest. The others are those on the digest itself
_REASONS_OF_ITEMS = frozenset({SkipReason.PREFERENCE_OFF, SkipReason.NOT_OPTED_IN, SkipReason.PACK_RULE})
_NOWHERE: Mapping[str, Skip] = MappingProxyType({})


class ItemContext(msgspec.Struct, frozen=True):
    """What is known of an item when its digest closes."""

    item: DigestItem
    #: None = it was deleted
    notification: Notification | None
    #: None = the user was erased
    recipient: Recipient | None
    #: those of the user that may apply to the item
    preferences: Sequence[Preference] = ()
    #: those of the digest
    channels: Collection[str] = ()
    is_in_audience: bool = True


def list_item_channels(notification: Notification, channels: Collection[str]) -> Collection[str]:
    """Return the channels of the digest that a notification is collected into. channels: the configured ones."""
    return list_collected_channels(notification) or channels


def is_decision_shared(preferences: Sequence[Preference], context: PlanContext) -> bool:
    """Return whether an item is decided alike for all users who can be reached on the same channels.

    If so, it is also shown on all channels of the digest or on none.
    """
    return not (preferences or context.preference_defaults or context.pack_rules)


def check_item(facts: ItemContext, context: PlanContext) -> Skip | Mapping[str, Skip]:
    """Return why an item is left out of the digest, or the channels on which it is not shown, with the reason.

    It stays if a message on at least one of its channels would be planned now. The rules that hold a message, such as
    quiet hours, apply to the digest and not to its items.
    """
    notification, recipient = context.notification, facts.recipient
    if facts.item.is_seen:
        return Skip(SkipReason.SEEN)
    if recipient is None:
        return Skip(SkipReason.USER_ERASED)
    may_differ = not is_decision_shared(facts.preferences, context)
    is_permitted = False
    skips: dict[str, Skip] = {}
    for channel in facts.channels:
        decision = decide(_build_candidate(channel, recipient, notification, facts), context).decision
        if isinstance(decision, Skip):
            skips[channel] = decision
        elif not may_differ:
            return _NOWHERE
        else:
            is_permitted = True
    if is_permitted:
        return {channel: skip for channel, skip in skips.items() if skip.reason in _REASONS_OF_ITEMS}
    for channel, skip in skips.items():
        return Skip(skip.reason, {"channel": channel, **skip.detail})
    return Skip(SkipReason.CHANNEL_NOT_SET_UP)


class ItemChecks:
    """Checks the items of many digests. Users who are decided alike on the same notification share a decision."""

    def __init__(self, contexts: Mapping[str, PlanContext]) -> None:
        """contexts: notification id → context."""
        self._contexts = contexts
        self._shared: dict[tuple[str, bool, tuple[str, ...]], Skip | Mapping[str, Skip]] = {}

    def check(self, facts: ItemContext, notification_id: str) -> Skip | Mapping[str, Skip]:
        """Return what `check_item` returns."""
        context, recipient = self._contexts[notification_id], facts.recipient
        if recipient is None or _differs(facts.item) or not is_decision_shared(facts.preferences, context):
            return check_item(facts, context)
        key = (notification_id, facts.is_in_audience, tuple(recipient.targets))
        if (found := self._shared.get(key)) is None:
            found = self._shared[key] = check_item(facts, context)
        return found


def _differs(item: DigestItem) -> bool:
    return item.is_seen or item.superseded_by is not None


def _build_candidate(channel: str, recipient: Recipient, notification: Notification, facts: ItemContext) -> Candidate:
    return Candidate(
        recipient.user_id,
        channel,
        facts.preferences,
        has_contact_point=bool(recipient.targets.get(channel)),
        timezone=recipient.timezone,
        is_in_audience=facts.is_in_audience,
        is_cancelled=notification.state is NotificationState.CANCELLED,
        superseded_by=facts.item.superseded_by,
    )
