"""The planner: decides per recipient and channel on a delivery to each target, or a skip with its reason. Pure.

The decisions are those of `tidings.flow.plan`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import structs

from tidings.flow.plan.candidate import NO_RULES, Candidate, PlanContext
from tidings.flow.plan.chain import decide
from tidings.flow.plan.collection import DigestCollection
from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.contact_point import NO_CONTACT_POINT
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import PlannedDelivery, Recipient, SkipRecord
from tidings.model.digest import CollectedItem
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.template import Category
from tidings.model.user_schedule import NO_SCHEDULE_DEFAULTS, ScheduleDefaults
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
    schedule_defaults: ScheduleDefaults = NO_SCHEDULE_DEFAULTS,
    pack_rules: Mapping[str, PackRule] = NO_RULES,
) -> Plan:
    """Plan a page of recipients.

    channels: the configured channels. If the notification requests another one, it is skipped for each recipient.
    batch_ids: yields the batch id of each delivery, see `batch_id_allocator`. informed: users who last heard the same
    of the notification's subject. get_traits: channel → traits. schedule_defaults: of users without a schedule.
    pack_rules: name → rule.
    """
    plan = Plan()
    context = PlanContext(
        notification,
        category,
        channels,
        now,
        get_traits=get_traits,
        schedule_defaults=schedule_defaults,
        pack_rules=pack_rules,
    )
    requested_channels = notification.channels or channels
    collection = DigestCollection.for_notification(notification)
    for recipient in page:
        #: on the channels that are collected
        at_once = plan if collection is None else Plan()
        for channel in requested_channels:
            target_ids = recipient.targets.get(channel, ())
            channel_plan = at_once if collection is not None and collection.has_channel(channel) else plan
            candidate = Candidate(
                recipient.user_id,
                channel,
                recipient.preferences.get(channel),
                has_contact_point=bool(target_ids),
                timezone=recipient.timezone,
                schedule=recipient.schedule,
                is_informed=recipient.user_id in informed,
            )
            _plan_channel(channel_plan, candidate, target_ids, recipient.target_timezones, context, batch_ids)
        if collection is None:
            continue
        if at_once.planned:
            timezone = recipient.schedule.timezone or recipient.timezone
            plan.collected.append(
                collection.collect(
                    recipient.user_id,
                    timezone,
                    now,
                    at_once.planned,
                    at_once.skipped,
                    digest_at=recipient.schedule.digest_at,
                )
            )
        else:
            plan.skipped.extend(at_once.skipped)
    return plan


def _plan_channel(
    plan: Plan,
    candidate: Candidate,
    target_ids: Sequence[str],
    target_timezones: Mapping[str, str],
    context: PlanContext,
    batch_ids: Iterator[str],
) -> None:
    """Add the deliveries to the targets of a candidate, or the skip, to the plan."""
    notification = context.notification
    verdict = decide(candidate, context)
    if isinstance(verdict.decision, Skip):
        reason, detail = verdict.decision.reason, verdict.decision.detail
        plan.skipped.append(SkipRecord(notification.id, candidate.user_id, candidate.channel, reason, detail))
        return
    if not context.get_traits(candidate.channel).needs_contact_point:
        target_ids = (NO_CONTACT_POINT,)
    for target_id in target_ids:
        held = verdict.decision
        if (device_timezone := target_timezones.get(target_id)) is not None:
            held = _decide_for_device(candidate, device_timezone, context)
        plan.planned.append(
            PlannedDelivery(
                id=new_id(context.now),
                notification_id=notification.id,
                user_id=candidate.user_id,
                channel=candidate.channel,
                target_id=target_id,
                batch_id=next(batch_ids) if held is None else None,
                lane=notification.priority,
                due_at=context.now if held is None else held.until,
                rule=verdict.consent,
                held_by=None if held is None else held.rule,
                detail=None if held is None else held.detail,
            )
        )


def _decide_for_device(candidate: Candidate, device_timezone: str, context: PlanContext) -> Defer | None:
    """Return what holds a candidate that is not skipped, on a device that reported its time zone."""
    decision = decide(structs.replace(candidate, device_timezone=device_timezone), context).decision
    assert not isinstance(decision, Skip), "no rule skips for the time zone of a device"
    return decision


def batch_id_allocator(size: int, now: datetime) -> Iterator[str]:
    """Yield batch ids without end, each `size` times. Notifications of one lane may share an allocator."""
    while True:
        batch_id = new_id(now)
        for _ in range(size):
            yield batch_id
