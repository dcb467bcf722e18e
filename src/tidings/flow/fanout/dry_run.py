"""Dry run: a notification's effect at its time, summed up over planned pages, and per channel of some users. Pure."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial

from tidings.flow.fanout.dry_run_steps import iter_later_steps
from tidings.flow.fanout.limits import send_collected
from tidings.flow.fanout.planner import Plan
from tidings.model.decision import find_rule
from tidings.model.delivery import PlannedDelivery, Recipient, SkipReason, SkipRecord
from tidings.model.digest import CollectedItem
from tidings.model.plan_options import NO_PLAN_OPTIONS, PlanOptions
from tidings.model.waiting_step import WaitingStep

#: users planned for a dry run at most; the counts of a larger audience cover only these
MAX_EXAMINED_USERS = 20_000
_SAMPLE_SIZE = 10
#: (recipient, channels of a later step, its time) → what would be planned then
PlanStepOf = Callable[[Recipient, Sequence[str], datetime], Plan]
#: users whose decisions are shown
MAX_SHOWN_USERS = 100


class DryRunOutcome(StrEnum):
    """What would happen to a notification on a channel of a user."""

    SEND = "send"
    #: a rule holds it until a time
    HOLD = "hold"
    #: a digest collects it
    DIGEST = "digest"
    SKIP = "skip"


#: decisions for which the throttle counts a notification
_SENT = frozenset({DryRunOutcome.SEND, DryRunOutcome.HOLD})


@dataclass(frozen=True, slots=True)
class DryRunDecision:
    """What would happen on one channel of one user."""

    #: None = all channels that the digest collects
    channel: str | None
    decision: DryRunOutcome
    #: when it is sent, released, or closed; None = never
    at: datetime | None = None
    #: the rule that holds or skips it, or what permits the category
    rule: str | None = None
    #: of a skip
    reason: SkipReason | None = None
    #: the inputs of the rule
    inputs: Mapping[str, object] = field(default_factory=dict)
    #: contact points that would receive it
    contact_points: int = 0
    #: what happens instead if the user is above the throttle, which a dry run does not count; None = it stops nothing
    above_limit: DryRunOutcome | None = None


@dataclass(frozen=True, slots=True)
class DryRunStep:
    """A later step of one user, if nothing cancels it."""

    #: what it waits for, and why its clock starts
    step: WaitingStep
    #: at the earliest
    starts_at: datetime
    #: what would happen on its channels then
    decisions: Sequence[DryRunDecision]


@dataclass(frozen=True, slots=True)
class DryRunRecipient:
    """What would happen to one user."""

    #: on the channels of the first step that reaches the user, and those of the steps before
    decisions: Sequence[DryRunDecision]
    #: the steps after it
    steps: Sequence[DryRunStep]


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
    #: the time for which it was planned: now, or when the notification is due
    planned_at: datetime
    #: user id → what would happen, of the first recipients, at most `MAX_SHOWN_USERS`
    shown: Mapping[str, DryRunRecipient]
    #: recipients for whom a digest would collect it
    collected: int = 0


class DryRunEstimate:
    """Accumulates planned pages."""

    def __init__(
        self,
        total: int,
        planned_at: datetime,
        plan_step: PlanStepOf,
        options: PlanOptions = NO_PLAN_OPTIONS,
        *,
        is_exempt: bool = False,
    ) -> None:
        """total: users in the audience. options: of the notification. is_exempt: whether limits never stop it.

        plan_step: plans a later step of a recipient at its time.
        """
        self._options = options
        self._is_throttled = options.throttle is not None and not is_exempt
        self._total = total
        self._plan_step = plan_step
        self._planned_at = planned_at
        self._examined = 0
        self._by_channel: Counter[str] = Counter()
        self._skipped: Counter[SkipReason] = Counter()
        self._sample: list[str] = []
        self._shown: dict[str, DryRunRecipient] = {}
        self._collected = 0

    @property
    def is_complete(self) -> bool:
        """Whether enough users were examined."""
        return self._examined >= MAX_EXAMINED_USERS

    def add_page(self, page: Sequence[Recipient], plan: Plan) -> None:
        """Add a planned page, as if each user were within the throttle."""
        excess: set[tuple[str, str]] = set()
        if self._options.has_overflow_digest:
            excess = {(one.user_id, one.channel) for item in plan.collected for one in item.deliveries}
            plan = send_collected(plan, {item.key.user_id for item in plan.collected})
        self._collected += len(plan.collected)
        self._examined += len(page)
        self._by_channel.update(delivery.channel for delivery in plan.planned)
        self._skipped.update(skip.reason for skip in plan.skipped)
        self._sample.extend(recipient.user_id for recipient in page[: _SAMPLE_SIZE - len(self._sample)])
        shown = page[: MAX_SHOWN_USERS - len(self._shown)]
        decisions = describe_plan(plan, [recipient.user_id for recipient in shown]) if shown else {}
        for recipient in shown:
            steps = self._describe_steps(recipient, plan) if plan.waiting else ()
            of_user = decisions[recipient.user_id]
            if self._is_throttled:
                of_user = _add_above_limit(of_user, recipient.user_id, excess)
            self._shown[recipient.user_id] = DryRunRecipient(of_user, steps)

    def result(self) -> DryRunResult:
        return DryRunResult(
            self._total,
            self._examined,
            self._by_channel,
            self._skipped,
            self._sample,
            self._planned_at,
            self._shown,
            self._collected,
        )

    def _describe_steps(self, recipient: Recipient, first: Plan) -> Sequence[DryRunStep]:
        user_id = recipient.user_id
        later = iter_later_steps(first, user_id, partial(self._plan_step, recipient))
        return [DryRunStep(step, at, describe_plan(plan, [user_id])[user_id]) for step, at, plan in later]


def describe_plan(plan: Plan, user_ids: Sequence[str]) -> Mapping[str, Sequence[DryRunDecision]]:
    """Return what a plan decides for users, by user."""
    decisions: dict[str, list[DryRunDecision]] = {user_id: [] for user_id in user_ids}
    by_channel: dict[tuple[str, str], list[PlannedDelivery]] = {}
    for delivery in plan.planned:
        if delivery.user_id in decisions:
            by_channel.setdefault((delivery.user_id, delivery.channel), []).append(delivery)
    for (user_id, _), deliveries in by_channel.items():
        decisions[user_id].append(_describe_delivery(deliveries))
    for item in plan.collected:
        if item.key.user_id in decisions:
            decisions[item.key.user_id].append(_describe_collection(item))
    for skip in plan.skipped:
        if skip.user_id in decisions:
            decisions[skip.user_id].append(_describe_skip(skip))
    return decisions


def _add_above_limit(
    decisions: Sequence[DryRunDecision], user_id: str, excess: Collection[tuple[str, str | None]]
) -> Sequence[DryRunDecision]:
    """Return the decisions with what happens above the throttle. excess: users and channels that a digest collects."""
    return [
        replace(one, above_limit=DryRunOutcome.DIGEST if (user_id, one.channel) in excess else DryRunOutcome.SKIP)
        if one.decision in _SENT
        else one
        for one in decisions
    ]


def _describe_delivery(deliveries: Sequence[PlannedDelivery]) -> DryRunDecision:
    first, count = deliveries[0], len(deliveries)
    if first.held_by is None:
        return DryRunDecision(first.channel, DryRunOutcome.SEND, first.due_at, first.rule, contact_points=count)
    inputs = first.detail or {}
    return DryRunDecision(
        first.channel, DryRunOutcome.HOLD, first.due_at, first.held_by, inputs=inputs, contact_points=count
    )


def _describe_collection(item: CollectedItem) -> DryRunDecision:
    inputs = {"key": item.key.key, "firstAtOnce": item.first_at_once}
    return DryRunDecision(None, DryRunOutcome.DIGEST, item.window.closes_at, "digest", inputs=inputs)


def _describe_skip(skip: SkipRecord) -> DryRunDecision:
    rule = find_rule(skip.reason, skip.detail)
    return DryRunDecision(skip.channel, DryRunOutcome.SKIP, None, rule, skip.reason, skip.detail)
