"""The planner: decides per recipient and channel on a delivery to each target, or a skip with its reason. Pure."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.consent import ConsentGranted, check_consent
from tidings.model.contact_point import NO_CONTACT_POINT
from tidings.model.delivery import PlannedDelivery, Recipient, SkipReason, SkipRecord, superseded_detail
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.template import Category


@dataclass(slots=True)
class Plan:
    """The deliveries and skips of a page of recipients."""

    planned: list[PlannedDelivery] = field(default_factory=list)
    skipped: list[SkipRecord] = field(default_factory=list)


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
) -> Plan:
    """Plan a page of recipients.

    channels: the configured channels. If the notification requests another one, it is skipped for each recipient.
    batch_ids: yields the batch id of each delivery, see `batch_id_allocator`. informed: users who last heard the same
    of the notification's subject. get_traits: channel → traits.
    """
    plan = Plan()
    requested_channels = notification.channels or channels
    for recipient in page:
        for channel in requested_channels:
            traits = get_traits(channel)
            target_ids = recipient.targets.get(channel, ()) if traits.needs_contact_point else (NO_CONTACT_POINT,)
            decision: ConsentGranted | SkipReason
            detail: Mapping[str, object] = {"category": category.code}
            if notification.superseded_by is not None:
                decision = SkipReason.SUPERSEDED
                detail = superseded_detail(notification.superseded_by)
            elif now >= notification.expires_at:
                decision = SkipReason.EXPIRED
            elif recipient.user_id in informed:
                decision = SkipReason.ALREADY_INFORMED
                detail = {"subject": notification.subject}
            elif channel not in channels:
                decision = SkipReason.CHANNEL_NOT_SET_UP
                detail = {"category": category.code, "setting": traits.setting}
            else:
                decision = check_consent(recipient.preferences.get(channel), category)
            if isinstance(decision, ConsentGranted) and not target_ids:
                decision = traits.missing_contact
            if isinstance(decision, SkipReason):
                plan.skipped.append(SkipRecord(notification.id, recipient.user_id, channel, decision, detail))
                continue
            plan.planned.extend(
                PlannedDelivery(
                    id=new_id(now),
                    notification_id=notification.id,
                    user_id=recipient.user_id,
                    channel=channel,
                    target_id=target_id,
                    batch_id=next(batch_ids),
                    lane=notification.priority,
                    due_at=now,
                    rule=decision.rule,
                )
                for target_id in target_ids
            )
    return plan


def batch_id_allocator(size: int, now: datetime) -> Iterator[str]:
    """Yield batch ids without end, each `size` times. Notifications of one lane may share an allocator."""
    while True:
        batch_id = new_id(now)
        for _ in range(size):
            yield batch_id
