"""Dry run: a notification's effect at its time, summed up over planned pages, and per channel of some users. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from tidings.flow.fanout.planner import Plan
from tidings.model.decision import find_rule
from tidings.model.delivery import PlannedDelivery, Recipient, SkipReason, SkipRecord
from tidings.model.digest import CollectedItem
from tidings.model.waiting_step import WaitingStep

#: users planned for a dry run at most; the counts of a larger audience cover only these
MAX_EXAMINED_USERS = 20_000
_SAMPLE_SIZE = 10
#: users whose decisions are shown
MAX_SHOWN_USERS = 100


class DryRunOutcome(StrEnum):
    """What would happen to a notification on a channel of a user."""

    SEND = "send"
    #: a rule holds it until a time
    HOLD = "hold"
    #: a digest collects it
    DIGEST = "digest"
    #: it waits for an earlier step
    STEP = "step"
    SKIP = "skip"


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
    #: user id → decisions of the first recipients, at most `MAX_SHOWN_USERS`
    decisions: Mapping[str, Sequence[DryRunDecision]]
    #: recipients for whom a digest would collect it
    collected: int = 0


class DryRunEstimate:
    """Accumulates planned pages."""

    def __init__(self, total: int, planned_at: datetime) -> None:
        self._total = total
        self._planned_at = planned_at
        self._examined = 0
        self._by_channel: Counter[str] = Counter()
        self._skipped: Counter[SkipReason] = Counter()
        self._sample: list[str] = []
        self._decisions: dict[str, list[DryRunDecision]] = {}
        self._collected = 0

    @property
    def is_complete(self) -> bool:
        """Whether enough users were examined."""
        return self._examined >= MAX_EXAMINED_USERS

    def add_page(self, page: Sequence[Recipient], plan: Plan) -> None:
        self._collected += len(plan.collected)
        self._examined += len(page)
        self._by_channel.update(delivery.channel for delivery in plan.planned)
        self._skipped.update(skip.reason for skip in plan.skipped)
        self._sample.extend(recipient.user_id for recipient in page[: _SAMPLE_SIZE - len(self._sample)])
        if shown := page[: MAX_SHOWN_USERS - len(self._decisions)]:
            self._add_decisions(shown, plan)

    def result(self) -> DryRunResult:
        return DryRunResult(
            self._total,
            self._examined,
            self._by_channel,
            self._skipped,
            self._sample,
            self._planned_at,
            self._decisions,
            self._collected,
        )

    def _add_decisions(self, shown: Sequence[Recipient], plan: Plan) -> None:
        decisions: dict[str, list[DryRunDecision]] = {recipient.user_id: [] for recipient in shown}
        by_channel: dict[tuple[str, str], list[PlannedDelivery]] = {}
        for delivery in plan.planned:
            if delivery.user_id in decisions:
                by_channel.setdefault((delivery.user_id, delivery.channel), []).append(delivery)
        for (user_id, _), deliveries in by_channel.items():
            decisions[user_id].append(_describe_delivery(deliveries))
        for item in plan.collected:
            if item.key.user_id in decisions:
                decisions[item.key.user_id].append(_describe_collection(item))
        for step in plan.waiting:
            if step.user_id in decisions:
                decisions[step.user_id].extend(_describe_step(step))
        for skip in plan.skipped:
            if skip.user_id in decisions:
                decisions[skip.user_id].append(_describe_skip(skip))
        self._decisions |= decisions


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


def _describe_step(step: WaitingStep) -> Iterator[DryRunDecision]:
    inputs = {"step": step.step, "afterSeconds": step.after_seconds, "unless": step.event or step.unless}
    for channel in step.channels:
        yield DryRunDecision(channel, DryRunOutcome.STEP, None, "step", inputs=inputs)


def _describe_skip(skip: SkipRecord) -> DryRunDecision:
    rule = find_rule(skip.reason, skip.detail)
    return DryRunDecision(skip.channel, DryRunOutcome.SKIP, None, rule, skip.reason, skip.detail)
