"""The planner: decides per recipient and channel on a delivery to each target, or a skip with its reason. Pure.

The decisions are those of `tidings.flow.plan`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidings.flow.plan.candidate import NO_RULES, Candidate, PlanContext
from tidings.flow.plan.chain import decide
from tidings.flow.plan.collection import DigestCollection
from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.contact_point import NO_CONTACT_POINT
from tidings.model.decision import Skip
from tidings.model.delivery import PlannedDelivery, Recipient, SkipRecord
from tidings.model.digest import CollectedItem
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.template import Category
from tidings.ports.pack import PackRule


@dataclass(slots=True)
class Plan:
    """The deliveries, skips and collected items of a page of recipients."""

    planned: list[PlannedDelivery] = field(default_factory=list)
    skipped: list[SkipRecord] = field(default_factory=list)
    #: recipients for whom a digest collects the notification
    collected: list[CollectedItem] = field(default_factory=list)


def plan_page(
    page: Sequence[Recipient],
    notification: Notification,
    category: Category,
    *,
    channels: Sequence[str],
    batch_ids: Iterator[str],
    now: datetime,
    informed: Collection[str] = (),
    get_traits: Callable[[str], ChannelTraits] = lambda _channel: DEFAULT_TRAITS,
    pack_rules: Mapping[str, PackRule] = NO_RULES,
) -> Plan:
    """Plan a page of recipients.

    channels: the configured channels. If the notification requests another one, it is skipped for each recipient.
    batch_ids: yields the batch id of each delivery, see `batch_id_allocator`. informed: users who last heard the same
    of the notification's subject. get_traits: channel → traits. pack_rules: name → rule.
    """
    plan = Plan()
    context = PlanContext(notification, category, channels, now, get_traits=get_traits, pack_rules=pack_rules)
    requested_channels = notification.channels or channels
    collection = DigestCollection.for_notification(notification)
    for recipient in page:
        #: on the channels that are collected
        at_once = plan if collection is None else Plan()
        for channel in requested_channels:
            target_ids = recipient.targets.get(channel, ())
            channel_plan = at_once if collection is not None and collection.has_channel(channel) else plan
            verdict = decide(
                Candidate(
                    recipient.user_id,
                    channel,
                    recipient.preferences.get(channel),
                    has_contact_point=bool(target_ids),
                    timezone=recipient.timezone,
                    is_informed=recipient.user_id in informed,
                ),
                context,
            )
            if isinstance(verdict.decision, Skip):
                reason, detail = verdict.decision.reason, verdict.decision.detail
                channel_plan.skipped.append(SkipRecord(notification.id, recipient.user_id, channel, reason, detail))
                continue
            if not get_traits(channel).needs_contact_point:
                target_ids = (NO_CONTACT_POINT,)
            held = verdict.decision
            channel_plan.planned.extend(
                PlannedDelivery(
                    id=new_id(now),
                    notification_id=notification.id,
                    user_id=recipient.user_id,
                    channel=channel,
                    target_id=target_id,
                    batch_id=next(batch_ids) if held is None else None,
                    lane=notification.priority,
                    due_at=now if held is None else held.until,
                    rule=verdict.consent,
                    held_by=None if held is None else held.rule,
                    detail=None if held is None else held.detail,
                )
                for target_id in target_ids
            )
        if collection is None:
            continue
        if at_once.planned:
            item = collection.collect(recipient.user_id, recipient.timezone, now, at_once.planned, at_once.skipped)
            plan.collected.append(item)
        else:
            plan.skipped.extend(at_once.skipped)
    return plan


def batch_id_allocator(size: int, now: datetime) -> Iterator[str]:
    """Yield batch ids without end, each `size` times. Notifications of one lane may share an allocator."""
    while True:
        batch_id = new_id(now)
        for _ in range(size):
            yield batch_id
