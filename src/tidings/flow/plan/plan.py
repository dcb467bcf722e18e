"""Decide for each recipient and channel: a delivery to each target, or a skip with its reason. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidings.model.consent import Rule, consent
from tidings.model.delivery import Planned, Recipient, Skipped, SkipReason
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.template import Category


@dataclass(slots=True)
class Plan:
    """What a page of recipients comes to."""

    planned: list[Planned] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def batch_ids(self) -> list[str]:
        return list(dict.fromkeys(one.batch_id for one in self.planned))


def plan(
    page: Sequence[Recipient],
    notification: Notification,
    category: Category,
    *,
    channels: Sequence[str],
    batches: Iterator[str],
    now: datetime,
) -> Plan:
    """Plan a page of recipients.

    channels: those that are set up. A channel that the notification asks for and that is not among them is recorded
    as skipped for each recipient. batches: the batch of each delivery, see `batches_of`.
    """
    made = Plan()
    wanted = notification.channels or channels
    for recipient in page:
        for channel in wanted:
            reachable = recipient.targets.get(channel, ())
            decision: Rule | SkipReason
            if now >= notification.expires_at:
                decision = SkipReason.EXPIRED
            elif channel not in channels:
                decision = SkipReason.CHANNEL_NOT_SET_UP
            else:
                decision = consent(recipient.choices.get(channel), category)
            if isinstance(decision, Rule) and not reachable:
                decision = SkipReason.NO_DEVICE
            if isinstance(decision, SkipReason):
                detail = {"category": category.code}
                made.skipped.append(Skipped(notification.id, recipient.user_id, channel, decision, detail))
                continue
            made.planned.extend(
                Planned(
                    id=new_id(now),
                    notification_id=notification.id,
                    user_id=recipient.user_id,
                    channel=channel,
                    target_id=target_id,
                    batch_id=next(batches),
                    lane=notification.priority,
                    due_at=now,
                    rule=decision.text,
                )
                for target_id in reachable
            )
    return made


def batches_of(size: int, now: datetime) -> Iterator[str]:
    """Return the batch for each delivery in turn; one lane's notifications may share them. size: deliveries in each."""
    while True:
        batch_id = new_id(now)
        for _ in range(size):
            yield batch_id
