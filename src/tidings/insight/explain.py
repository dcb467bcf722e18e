"""Why did, or did not, this user get this? Pure: recorded facts in, a verdict and sentences out (MISSION B3)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from tidings.insight.membership import Membership
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.notification import Notification, NotificationState
from tidings.model.subscription import PushSubscription, SubscriptionState
from tidings.model.template import Category
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.model.user import Preference


class Verdict(StrEnum):
    """The answer in one word."""

    DELIVERED = "delivered"
    PARTLY_DELIVERED = "partly_delivered"
    #: on its way: not planned yet, not due yet, or to be tried again
    WAITING = "waiting"
    SKIPPED = "skipped"
    NOT_IN_AUDIENCE = "not_in_audience"
    #: in the audience now, but not when it was planned
    JOINED_LATER = "joined_later"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN_USER = "unknown_user"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known about one notification and one user."""

    user_id: str
    #: False when nobody told us about the user, or they were erased
    user_known: bool
    notification: Notification
    #: None when the pack that declared it is gone
    category: Category | None
    #: the user's own choices for the category
    choices: Sequence[Preference]
    subscriptions: Sequence[PushSubscription]
    deliveries: Sequence[DeliveryTrace]
    skips: Sequence[SkipTrace]
    #: the audience as it would be now
    membership: Membership
    now: datetime


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer."""

    verdict: Verdict
    sentences: tuple[str, ...]
    facts: Facts


#: reason → why, filled from channel, category, user, when and the recorded detail
_REASONS: Mapping[SkipReason, str] = {
    SkipReason.PREFERENCE_OFF: "{user} turned off {category} on {channel}.",
    SkipReason.NOT_OPTED_IN: "{category} is off until a user turns it on, and {user} had not.",
    SkipReason.NO_DEVICE: "at {when}, {user} had no device with notifications on.",
    SkipReason.CHANNEL_NOT_SET_UP: "the channel was not set up on this server at {when}.",
    SkipReason.LEFT_AUDIENCE: "{user} had left the audience by {when}, before the send.",
    SkipReason.EXPIRED: "its time was over at {when}, before its turn came.",
    SkipReason.USER_ERASED: "{user} was erased before the send.",
    SkipReason.RENDER_FAILED: "the template could not be filled in{error}.",
    SkipReason.CANCELLED: "the notification was cancelled before the send.",
    SkipReason.RATE_LIMITED: "at {when}, {user} had got as many notifications within an hour as are allowed{limit}.",
}


def explain(facts: Facts) -> Explanation:
    """Return why the user got the notification, or why not."""
    verdict = _verdict(facts)
    return Explanation(verdict, tuple(_sentences(facts, verdict)), facts)


def _verdict(facts: Facts) -> Verdict:
    states = [one.state for one in facts.deliveries]
    delivered = states.count(DeliveryState.DELIVERED)
    if states and delivered == len(states):
        return Verdict.DELIVERED
    if delivered:
        return Verdict.PARTLY_DELIVERED
    cancelled = facts.notification.state is NotificationState.CANCELLED
    if states:
        return _undelivered(states, cancelled)
    if facts.skips:
        all_cancelled = all(skip.reason is SkipReason.CANCELLED for skip in facts.skips)
        return Verdict.CANCELLED if all_cancelled else Verdict.SKIPPED
    if not facts.user_known:
        return Verdict.UNKNOWN_USER
    if cancelled:
        return Verdict.CANCELLED
    if _still_to_come(facts):
        return Verdict.WAITING if facts.membership.holds else Verdict.NOT_IN_AUDIENCE
    return Verdict.JOINED_LATER if facts.membership.holds else Verdict.NOT_IN_AUDIENCE


def _undelivered(states: Sequence[DeliveryState], cancelled: bool) -> Verdict:
    """Judge deliveries of which none arrived; the state that leaves most hope counts."""
    if DeliveryState.SENDING in states or (DeliveryState.PENDING in states and not cancelled):
        return Verdict.WAITING
    if not {DeliveryState.REFUSED, DeliveryState.DISCARDED, DeliveryState.GONE}.isdisjoint(states):
        return Verdict.FAILED
    if cancelled or DeliveryState.CANCELLED in states:
        return Verdict.CANCELLED
    return Verdict.EXPIRED if DeliveryState.EXPIRED in states else Verdict.SKIPPED


def _still_to_come(facts: Facts) -> bool:
    """Say whether the fan-out has yet to pass this user; it goes through the audience in id order."""
    notification = facts.notification
    if notification.state is NotificationState.ACCEPTED:
        return True
    in_progress = notification.state is NotificationState.FANNING_OUT
    return in_progress and (notification.cursor is None or facts.user_id > notification.cursor)


def _sentences(facts: Facts, verdict: Verdict) -> Iterator[str]:
    user = facts.user_id
    if facts.deliveries:
        yield _headline(facts, verdict)
    for delivery in facts.deliveries:
        yield _delivery(delivery, facts)
    told = {(one.channel, one.why) for one in facts.deliveries if one.state is DeliveryState.SKIPPED}
    for skip in facts.skips:
        # what was found just before sending is recorded with the delivery, and told with it
        if (skip.channel, skip.reason.value) not in told:
            yield _skip(skip, facts)
    if not facts.deliveries and not facts.skips:
        yield _nothing(facts, verdict)
        if verdict in {Verdict.NOT_IN_AUDIENCE, Verdict.JOINED_LATER}:
            yield from facts.membership.sentences(user)
    if facts.notification.state is NotificationState.CANCELLED and verdict is not Verdict.CANCELLED:
        yield "The notification was cancelled afterwards."
    if any(skip.reason is SkipReason.NO_DEVICE for skip in facts.skips):
        yield _devices_now(facts)


def _headline(facts: Facts, verdict: Verdict) -> str:
    user, total = facts.user_id, len(facts.deliveries)
    arrived = sum(one.state is DeliveryState.DELIVERED for one in facts.deliveries)
    rule = ", ".join(dict.fromkeys(one.rule for one in facts.deliveries))
    why = f" Why: {user} was in the audience, and {facts.notification.category} is {rule}."
    match verdict:
        case Verdict.DELIVERED:
            return f"{user} got it on {_count(total, 'device')}.{why}"
        case Verdict.PARTLY_DELIVERED:
            return f"{user} got it on {arrived} of {_count(total, 'device')}.{why}"
        case Verdict.WAITING:
            return f"It is on its way to {_count(total, 'device')} of {user}.{why}"
        case Verdict.CANCELLED:
            return f"{user} did not get it: the notification was cancelled before it was sent."
        case Verdict.EXPIRED:
            return f"{user} did not get it: it expired at {_at(facts.notification.expires_at)} before it could be sent."
        case _:
            return f"{user} did not get it; it was meant for {_count(total, 'device')}."


def _delivery(delivery: DeliveryTrace, facts: Facts) -> str:
    target = delivery.target_label or "a device that has been removed since"
    tries = f"after {_count(len(delivery.attempts), 'attempt')}"
    last = delivery.attempts[-1] if delivery.attempts else None
    told = delivery.why or (last.why if last else None)
    because = f": {told.rstrip('.')}" if told else ""
    status = f" (status {last.status})" if last is not None and last.status is not None else ""
    match delivery.state:
        case DeliveryState.DELIVERED:
            took = last.finished_at if last is not None else delivery.updated_at
            waited = _since(facts.notification, took)
            return f"{target}: taken by the {delivery.channel} service at {_at(took)}, {waited}{tries}{status}."
        case DeliveryState.PENDING | DeliveryState.SENDING if last is not None:
            return f"{target}: {tries} no success yet{because}{status}; next try at {_at(delivery.due_at)}."
        case DeliveryState.PENDING:
            return f"{target}: planned, due at {_at(delivery.due_at)}."
        case DeliveryState.SENDING:
            return f"{target}: being sent right now."
        case DeliveryState.GONE:
            return f"{target}: the device no longer exists{because}{status}; given up at {_at(delivery.updated_at)}."
        case DeliveryState.REFUSED:
            return f"{target}: given up {tries} at {_at(delivery.updated_at)}{because}{status}."
        case DeliveryState.DISCARDED:
            return f"{target}: given up {tries}{because}{status}; taken off the dead letters by an operator."
        case DeliveryState.EXPIRED:
            return f"{target}: not sent in time, {tries}{because}; it expired at {_at(facts.notification.expires_at)}."
        case DeliveryState.CANCELLED:
            return f"{target}: not sent, the notification was cancelled."
        case DeliveryState.SKIPPED:
            return f"{target}: not sent: {_late_reason(delivery, facts)}"


def _skip(skip: SkipTrace, facts: Facts) -> str:
    why = _reason(skip.reason, skip.channel, skip.created_at, facts, skip.detail)
    return f"Nothing was sent on {skip.channel}: {why}"


def _late_reason(delivery: DeliveryTrace, facts: Facts) -> str:
    """Say what was found when the delivery was looked at again just before sending."""
    try:
        reason = SkipReason(delivery.why or "")
    except ValueError:
        return f"something changed between planning and sending: {delivery.why or 'no reason was kept'}."
    return _reason(reason, delivery.channel, delivery.updated_at, facts, {})


def _reason(reason: SkipReason, channel: str, moment: datetime, facts: Facts, detail: Mapping[str, object]) -> str:
    error = detail.get("error") or detail.get("why")
    return _REASONS[reason].format(
        channel=channel,
        category=facts.notification.category,
        user=facts.user_id,
        when=_at(moment),
        error=f" ({error})" if error else "",
        limit=_limit(detail),
    )


def _limit(detail: Mapping[str, object]) -> str:
    """Say which limit it was, where that was recorded: a category's own, or the one of all others together."""
    if "limit" not in detail:
        return ""
    return f" ({detail['limit']} of {detail['scope']})" if detail.get("scope") else f" ({detail['limit']} in all)"


def _nothing(facts: Facts, verdict: Verdict) -> str:
    user, notification = facts.user_id, facts.notification
    told: Mapping[Verdict, Callable[[], str]] = {
        Verdict.UNKNOWN_USER: lambda: f"{user} is unknown here: never made known, or erased since.",
        Verdict.CANCELLED: lambda: (
            f"The notification was cancelled before it reached anybody's turn at {user}; nothing was sent."
        ),
        Verdict.JOINED_LATER: lambda: (
            f"{user} is in the audience now, but was not when the audience was gone "
            f"through after {_at(max(notification.send_at, notification.created_at))}."
        ),
        Verdict.NOT_IN_AUDIENCE: lambda: f"{user} is not in the audience of this notification.",
        Verdict.WAITING: lambda: _not_yet(facts),
    }
    return told[verdict]()


def _not_yet(facts: Facts) -> str:
    notification = facts.notification
    if notification.send_at > facts.now:
        return f"It waits: it is to be sent at {_at(notification.send_at)}; {facts.user_id} is in the audience so far."
    done = _count(notification.recipients, "recipient")
    return f"It waits: the audience is being gone through ({done} so far) and {facts.user_id} is still to come."


def _devices_now(facts: Facts) -> str:
    active = sum(one.state is SubscriptionState.ACTIVE for one in facts.subscriptions)
    rest = len(facts.subscriptions) - active
    lost = f" and {_count(rest, 'one')} that cannot be reached any more" if rest else ""
    return f"{facts.user_id} has {_count(active, 'active device') if active else 'no active device'}{lost} now."


def _since(notification: Notification, moment: datetime) -> str:
    """Say how long after its start it arrived, where that is telling."""
    start = max(notification.created_at, notification.send_at)
    took = moment - start
    if not timedelta(0) <= took < timedelta(days=1):
        return ""
    seconds = took.total_seconds()
    return f"{seconds * 1000:.0f} ms after the start, " if seconds < 1 else f"{seconds:.1f} s after the start, "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _at(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 100_000} UTC"
