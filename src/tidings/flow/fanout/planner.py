"""The planner: decides per recipient and channel on a delivery to each target, or a skip with its reason. Pure.

The decisions are those of `tidings.flow.plan`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import structs

from tidings.flow.fanout.delivery_ids import DeliveryIds
from tidings.flow.plan.candidate import NO_RULES, Candidate, PlanContext
from tidings.flow.plan.chain import Verdict, decide
from tidings.flow.plan.collection import DigestCollection
from tidings.flow.plan.rules.channel_selection import select_by_engagement
from tidings.flow.plan.rules.quiet_hours import choose_zone
from tidings.model.awaited_event import NO_EVENTS, NO_OCCURRED, OccurredEvents
from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.channel_engagement import NO_ENGAGEMENT, ChannelEngagement, EngagementByUser
from tidings.model.contact_point import NO_CONTACT_POINT
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import PlannedDelivery, Recipient, SkipRecord
from tidings.model.digest import CollectedItem
from tidings.model.notification import Notification
from tidings.model.preference import Preference
from tidings.model.template import Category
from tidings.model.user_schedule import NO_SCHEDULE_DEFAULTS, ScheduleDefaults
from tidings.model.waiting_step import WaitingStep, plan_waiting_steps, select_channels
from tidings.ports.pack import PackRule


@dataclass(slots=True)
class Plan:
    """The deliveries, skips and collected items of a page of recipients."""

    planned: list[PlannedDelivery] = field(default_factory=list)
    skipped: list[SkipRecord] = field(default_factory=list)
    #: the later steps of recipients with a delivery in the first one
    waiting: list[WaitingStep] = field(default_factory=list)
    #: recipients for whom a digest collects the notification
    collected: list[CollectedItem] = field(default_factory=list)


def plan_page(
    page: Sequence[Recipient],
    notification: Notification,
    category: Category,
    *,
    channels: Sequence[str],
    ids: DeliveryIds,
    now: datetime,
    informed: Collection[str] = (),
    engagement: EngagementByUser = NO_ENGAGEMENT,
    get_traits: Callable[[str], ChannelTraits] = lambda _channel: DEFAULT_TRAITS,
    schedule_defaults: ScheduleDefaults = NO_SCHEDULE_DEFAULTS,
    preference_defaults: Sequence[Preference] = (),
    pack_rules: Mapping[str, PackRule] = NO_RULES,
    step_channels: Sequence[str] | None = None,
    happened: Mapping[str, OccurredEvents] = NO_OCCURRED,
) -> Plan:
    """Plan a page of recipients.

    Of a notification with steps, the first one that reaches a recipient is planned, and those after it wait.

    channels: the configured channels. If the notification requests another one, it is skipped for each recipient.
    ids: those of the deliveries, `NO_IDS` if the plan is not stored. informed: users who last heard the same of the
    notification's subject. engagement: what users did recently, if the notification selects channels by it.
    get_traits: channel → traits. schedule_defaults: of users without a schedule. preference_defaults: of the
    installation. pack_rules: name → rule. step_channels: of the later step that is planned. happened: user id → domain
    events that came, which may make later steps unnecessary.
    """
    plan = Plan()
    context = PlanContext(
        notification,
        category,
        channels,
        now,
        get_traits=get_traits,
        schedule_defaults=schedule_defaults,
        preference_defaults=preference_defaults,
        pack_rules=pack_rules,
    )
    if step_channels is not None:
        stages: Sequence[Sequence[str]] = [step_channels]
    elif notification.plan.steps:
        stages = [select_channels(step, notification.channels) for step in notification.plan.steps]
    else:
        stages = [notification.channels or channels]
    # a later step is sent alone, as the digest of its notification was closed or never opened
    collection = None if step_channels is not None else DigestCollection.for_notification(notification)
    for recipient in page:
        _plan_stages(
            plan,
            recipient,
            stages,
            context,
            ids,
            collection,
            is_informed=recipient.user_id in informed,
            engagement=engagement.get(recipient.user_id, {}),
            happened=happened.get(recipient.user_id, NO_EVENTS),
        )
    return plan


def _plan_stages(
    plan: Plan,
    recipient: Recipient,
    stages: Sequence[Sequence[str]],
    context: PlanContext,
    ids: DeliveryIds,
    collection: DigestCollection | None,
    *,
    is_informed: bool,
    engagement: Mapping[str, ChannelEngagement],
    happened: OccurredEvents,
) -> None:
    """Plan the first of some groups of channels that reaches a recipient. Those after it wait.

    A later step whose event came before is not planned either, and the step after it keeps its time.
    """
    notification, now = context.notification, context.now
    #: on the channels that are collected, in all stages
    at_once = plan if collection is None else Plan()
    for position, stage in enumerate(stages):
        is_ended = bool(position and stage and notification.plan.steps[position].event in happened)
        if not is_ended:
            decided = _decide_channels(recipient, stage, context, engagement, is_informed=is_informed)
            if not _plan_recipient(plan, recipient, decided, context, ids, (collection, at_once)):
                continue
        if len(stages) > 1:
            last = position - 1 if is_ended else position
            plan.waiting += plan_waiting_steps(
                notification, recipient.user_id, happened, now, last=last, is_reached=not is_ended
            )
        break
    if collection is not None and not at_once.planned:
        plan.skipped += at_once.skipped


def _decide_channels(
    recipient: Recipient,
    requested_channels: Sequence[str],
    context: PlanContext,
    engagement: Mapping[str, ChannelEngagement],
    *,
    is_informed: bool,
) -> list[tuple[Candidate, Verdict]]:
    """Return the decision on each channel. Of those that are permitted, the notification may use one only."""
    decided: list[tuple[Candidate, Verdict]] = []
    for channel in requested_channels:
        candidate = Candidate(
            recipient.user_id,
            channel,
            recipient.preferences,
            has_contact_point=bool(recipient.targets.get(channel, ())),
            timezone=recipient.timezone,
            schedule=recipient.schedule,
            is_informed=is_informed,
        )
        decided.append((candidate, decide(candidate, context)))
    if context.notification.plan.channel_selection == "all":
        return decided
    permitted = [candidate.channel for candidate, verdict in decided if not isinstance(verdict.decision, Skip)]
    skips = select_by_engagement(permitted, engagement)
    return [
        (candidate, verdict._replace(decision=skips.get(candidate.channel, verdict.decision)))
        for candidate, verdict in decided
    ]


def _plan_recipient(
    plan: Plan,
    recipient: Recipient,
    decided: Sequence[tuple[Candidate, Verdict]],
    context: PlanContext,
    ids: DeliveryIds,
    collected: tuple[DigestCollection | None, Plan],
) -> bool:
    """Add the deliveries, skips or the item of a digest of a recipient to the plan. Returns whether one is to be sent.

    collected: the digest that collects some of the channels, and what is sent on them if the digest does not.
    """
    notification, now = context.notification, context.now
    collection, at_once = collected
    is_planned = False
    for candidate, verdict in decided:
        channel = candidate.channel
        target_ids = recipient.targets.get(channel, ())
        channel_plan = at_once if collection is not None and collection.has_channel(channel) else plan
        if isinstance(verdict.decision, Skip):
            reason, detail = verdict.decision.reason, verdict.decision.detail
            channel_plan.skipped.append(SkipRecord(notification.id, recipient.user_id, channel, reason, detail))
            continue
        if not context.get_traits(channel).needs_contact_point:
            target_ids = (NO_CONTACT_POINT,)
        is_planned = True
        for target_id in target_ids:
            held = verdict.decision
            if (device_timezone := recipient.target_timezones.get(target_id)) is not None:
                held = _decide_for_device(candidate, device_timezone, context)
            channel_plan.planned.append(
                _build_delivery(recipient.user_id, channel, target_id, held, verdict.consent, context, ids)
            )
    if collection is not None and at_once.planned:
        zone, _ = choose_zone(candidate, context.schedule_defaults)
        item = collection.collect(
            recipient.user_id,
            zone.key,
            now,
            at_once.planned,
            at_once.skipped,
            digest_at=recipient.schedule.digest_at,
        )
        plan.collected.append(item)
    return is_planned


def _build_delivery(
    user_id: str,
    channel: str,
    target_id: str,
    held: Defer | None,
    consent: str,
    context: PlanContext,
    ids: DeliveryIds,
) -> PlannedDelivery:
    return PlannedDelivery(
        id=next(ids.deliveries),
        notification_id=context.notification.id,
        user_id=user_id,
        channel=channel,
        target_id=target_id,
        batch_id=next(ids.batches) if held is None else None,
        lane=context.notification.priority,
        due_at=context.now if held is None else held.until,
        rule=consent,
        held_by=None if held is None else held.rule,
        detail=None if held is None else held.detail,
    )


def _decide_for_device(candidate: Candidate, device_timezone: str, context: PlanContext) -> Defer | None:
    """Return what holds a candidate that is not skipped, on a device that reported its time zone."""
    decision = decide(structs.replace(candidate, device_timezone=device_timezone), context).decision
    assert not isinstance(decision, Skip), "no rule skips for the time zone of a device"
    return decision
