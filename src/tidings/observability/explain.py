"""Explains why a user received a notification, or why not. Pure: recorded facts in, a verdict and sentences out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from tidings.localization.wall_clock import lookup_zone
from tidings.model.channel_engagement import FEED_CHANNEL
from tidings.model.delivery import DeliveryState, SkipReason
from tidings.model.digest import DigestItem, DigestItemState
from tidings.model.notification import Notification, NotificationState
from tidings.model.preference import Preference
from tidings.model.receipt import FAILED_STATUSES, ReceiptStatus, select_receipt
from tidings.model.recurring import SOURCE_PREFIX
from tidings.model.subscription import PushSubscription, SubscriptionState
from tidings.model.suppression import SuppressionReason
from tidings.model.template import Category
from tidings.model.trace import DeliveryTrace, SkipTrace
from tidings.model.waiting_step import StepEnd, WaitingStep
from tidings.observability.audience_membership import MembershipNode
from tidings.observability.channel_decisions import ChannelDecision, describe_consent, list_channel_decisions
from tidings.observability.consent_sentences import describe_default, describe_opt_out
from tidings.observability.explain_digests import NO_DIGESTS, DigestHistory, iter_digest_sentences
from tidings.observability.step_sentences import STEP_END_TEXTS, build_step_sentences


class Verdict(StrEnum):
    """The explanation in one word."""

    DELIVERED = "delivered"
    PARTLY_DELIVERED = "partly_delivered"
    #: not planned yet, not due yet, or waiting for a retry
    WAITING = "waiting"
    SKIPPED = "skipped"
    #: sent as a part of a digest
    DIGESTED = "digested"
    NOT_IN_AUDIENCE = "not_in_audience"
    #: in the audience now, but not when the notification was planned
    JOINED_LATER = "joined_later"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN_USER = "unknown_user"


@dataclass(frozen=True, slots=True)
class ExplainInput:
    """The recorded facts about one notification and one user."""

    user_id: str
    #: False if the user was never created, or was erased
    is_user_known: bool
    notification: Notification
    #: None if the pack that declared it is not installed
    category: Category | None
    #: the entries of the user that may apply to the notification
    preferences: Sequence[Preference]
    subscriptions: Sequence[PushSubscription]
    deliveries: Sequence[DeliveryTrace]
    skips: Sequence[SkipTrace]
    #: the audience as evaluated now
    membership: MembershipNode
    now: datetime
    #: the configured channels
    channels: Sequence[str] = ()
    #: entries of the installation
    preference_defaults: Sequence[Preference] = ()
    #: the later steps of the notification for the user
    steps: Sequence[WaitingStep] = ()
    digests: DigestHistory = NO_DIGESTS
    #: the newer notification on the subject that superseded this one for the user
    superseded_by: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict, and the sentences that explain it."""

    verdict: Verdict
    sentences: tuple[str, ...]
    facts: ExplainInput
    #: per contact point, or per channel without one
    decisions: Sequence[ChannelDecision] = ()


#: the channel whose contact points are devices
_PUSH = "webpush"
#: reason → sentence; the placeholders are channel, user, time and the recorded detail
_REASON_TEMPLATES: Mapping[SkipReason, str] = {
    SkipReason.PREFERENCE_OFF: "{opt_out}.",
    SkipReason.NOT_OPTED_IN: "{default}, and {user} had not turned it on.",
    SkipReason.NO_DEVICE: "at {when}, {user} had no device with notifications on.",
    SkipReason.NO_CONTACT_POINT: "at {when}, {user} had no usable address on {channel}.",
    SkipReason.CHANNEL_NOT_SET_UP: "the channel was not set up on this server at {when}{setting}.",
    SkipReason.LEFT_AUDIENCE: "{user} had left the audience by {when}, before the send.",
    SkipReason.EXPIRED: "it had expired by {when}, before it was sent.",
    SkipReason.USER_ERASED: "{user} was erased before the send.",
    SkipReason.RENDER_FAILED: "the template could not be rendered{error}.",
    SkipReason.CANCELLED: "the notification was cancelled before the send.",
    SkipReason.SUPERSEDED: "a newer notification on the same subject was accepted before the send{newer}.",
    SkipReason.ALREADY_INFORMED: "at {when}, {user} had last heard the same, so it was not new.",
    SkipReason.DEVICE_REPLACED: "the device had a new subscription by {when}, to which the same message was planned.",
    SkipReason.SUPPRESSED: "the address was suppressed at {when}{suppression}.",
    SkipReason.STEP_CANCELLED: "the step was cancelled before the send{step_end}.",
    SkipReason.SEEN: "{user} had seen it in the feed before {when}.",
    SkipReason.EMPTY_DIGEST: "nothing was left of the digest at {when}.",
    SkipReason.DIGEST_OVERDUE: "it was due at {due}, and nothing closed it in time{catch_up}.",
    SkipReason.PACK_RULE: "{rule} of a pack decided against it at {when}{error}.",
    SkipReason.THROTTLED: "at {when}, {user} had received as many of these as the throttle allows{throttle}.",
    SkipReason.NOT_MOST_ENGAGED: "of the channels that reach {user}, one is used{selection}.",
    SkipReason.RATE_LIMITED: "at {when}, {user} had reached the rate limit for an hour{limit}.",
}


#: status of receipts → what happened
_RECEIPT_TEXTS: Mapping[ReceiptStatus, str] = {
    ReceiptStatus.SENT: "sent on, not confirmed yet",
    ReceiptStatus.DELIVERED: "delivered",
    ReceiptStatus.FAILED: "failed",
    ReceiptStatus.UNDELIVERED: "could not be delivered",
    ReceiptStatus.BOUNCED: "bounced",
    ReceiptStatus.COMPLAINED: "delivered, and reported as spam",
}
#: reason of a suppression → why
_SUPPRESSION_CAUSES: Mapping[str, str] = {
    SuppressionReason.HARD_BOUNCE: "it does not exist, as a bounce said",
    SuppressionReason.SOFT_BOUNCES: "messages to it bounced several times",
    SuppressionReason.COMPLAINT: "its owner reported a message as spam",
    SuppressionReason.UNSUBSCRIBE: "its owner unsubscribed with the provider",
    SuppressionReason.OPT_OUT: "its owner answered STOP",
    SuppressionReason.PROVIDER_OPT_OUT: "its owner opted out with the provider",
    SuppressionReason.MANUAL: "an operator suppressed it",
}


def explain(facts: ExplainInput) -> Explanation:
    """Return why the user received the notification, or why not."""
    verdict = _decide_verdict(facts)
    decisions = list_channel_decisions(
        facts.notification,
        facts.category,
        facts.channels,
        facts.deliveries,
        facts.skips,
        preferences=facts.preferences,
        defaults=facts.preference_defaults,
    )
    sentences = [*_build_sentences(facts, verdict), *_describe_preferences(decisions)]
    return Explanation(verdict, tuple(sentences), facts, decisions)


def _describe_preferences(decisions: Sequence[ChannelDecision]) -> Iterator[str]:
    """Yield sentences on the preferences of each channel on which an entry of user or installation applies."""
    for decision in {decision.channel: decision for decision in decisions}.values():
        yield from describe_consent(decision)


def _effective_state(delivery: DeliveryTrace) -> DeliveryState:
    """Return the state of a delivery, refused if its provider took it and reported later that it did not arrive."""
    if delivery.state is DeliveryState.DELIVERED and delivery.receipt_status in FAILED_STATUSES:
        return DeliveryState.REFUSED
    return delivery.state


def _decide_verdict(facts: ExplainInput) -> Verdict:
    states = [_effective_state(delivery) for delivery in facts.deliveries]
    delivered = states.count(DeliveryState.DELIVERED)
    if states and delivered == len(states):
        return Verdict.DELIVERED
    if delivered:
        return Verdict.PARTLY_DELIVERED
    cancelled = facts.notification.state is NotificationState.CANCELLED
    if states:
        return _decide_undelivered(states, cancelled, is_superseded=facts.superseded_by is not None)
    if facts.digests.collected is not None:
        return _decide_collected(facts.digests.collected[0])
    if facts.skips:
        all_cancelled = all(skip.reason is SkipReason.CANCELLED for skip in facts.skips)
        return Verdict.CANCELLED if all_cancelled else Verdict.SKIPPED
    if not facts.is_user_known:
        return Verdict.UNKNOWN_USER
    if cancelled:
        return Verdict.CANCELLED
    if _is_not_planned_yet(facts):
        return Verdict.WAITING if facts.membership.is_member else Verdict.NOT_IN_AUDIENCE
    return Verdict.JOINED_LATER if facts.membership.is_member else Verdict.NOT_IN_AUDIENCE


def _decide_collected(item: DigestItem) -> Verdict:
    match item.state:
        case DigestItemState.COLLECTED:
            return Verdict.WAITING
        case DigestItemState.DIGESTED:
            return Verdict.DIGESTED
        case DigestItemState.LEFT_OUT:
            return Verdict.CANCELLED if item.reason is SkipReason.CANCELLED else Verdict.SKIPPED


def _decide_undelivered(states: Sequence[DeliveryState], is_cancelled: bool, *, is_superseded: bool) -> Verdict:
    """Return the verdict when no delivery succeeded. Waiting precedes failed, failed precedes the other states."""
    may_be_sent = not is_cancelled and not is_superseded
    if DeliveryState.SENDING in states or (DeliveryState.PENDING in states and may_be_sent):
        return Verdict.WAITING
    if not {DeliveryState.REFUSED, DeliveryState.DISCARDED, DeliveryState.GONE}.isdisjoint(states):
        return Verdict.FAILED
    if is_cancelled or DeliveryState.CANCELLED in states:
        return Verdict.CANCELLED
    return Verdict.EXPIRED if DeliveryState.EXPIRED in states else Verdict.SKIPPED


def _is_not_planned_yet(facts: ExplainInput) -> bool:
    """Return whether the fan-out has not reached this user yet. It plans the audience in order of user ids."""
    notification = facts.notification
    if notification.state is NotificationState.ACCEPTED:
        return True
    in_progress = notification.state is NotificationState.FANNING_OUT
    return in_progress and (notification.cursor is None or facts.user_id > notification.cursor)


def _build_sentences(facts: ExplainInput, verdict: Verdict) -> Iterator[str]:
    user = facts.user_id
    if facts.deliveries:
        yield _format_headline(facts, verdict)
    for delivery in facts.deliveries:
        yield _format_delivery(delivery, facts)
    skipped = {(trace.channel, trace.why) for trace in facts.deliveries if trace.state is DeliveryState.SKIPPED}
    for skip in facts.skips:
        # skips found by the preflight check are also recorded with the delivery, and already explained there
        if (skip.channel, skip.reason.value) not in skipped:
            yield _format_skip(skip, facts)
    yield from build_step_sentences(facts.steps)
    yield from iter_digest_sentences(
        facts.digests,
        facts.notification,
        lambda reason, channel, moment, detail: _format_reason(reason, channel, moment, facts, detail),
        _format_instant,
    )
    if not facts.deliveries and not facts.skips and facts.digests.collected is None:
        yield _format_no_record(facts, verdict)
        if verdict in {Verdict.NOT_IN_AUDIENCE, Verdict.JOINED_LATER}:
            yield from facts.membership.iter_sentences(user)
    if facts.notification.state is NotificationState.CANCELLED and verdict is not Verdict.CANCELLED:
        yield "The notification was cancelled later."
    source = facts.notification.source or ""
    if source.startswith(SOURCE_PREFIX):
        yield f"It is of the recurring notification {source.removeprefix(SOURCE_PREFIX)}."
    if any(skip.reason is SkipReason.NO_DEVICE for skip in facts.skips):
        yield _format_current_devices(facts)


def _format_headline(facts: ExplainInput, verdict: Verdict) -> str:
    user = facts.user_id
    delivered = sum(trace.state is DeliveryState.DELIVERED for trace in facts.deliveries)
    rule = ", ".join(dict.fromkeys(trace.rule for trace in facts.deliveries))
    why = f" Why: {user} was in the audience, and {facts.notification.category} is {rule}."
    match verdict:
        case Verdict.DELIVERED:
            return f"{user} received it on {_count_targets(facts)}.{why}"
        case Verdict.PARTLY_DELIVERED:
            return f"{user} received {delivered} of {_pluralize(len(facts.deliveries), 'message')}.{why}"
        case Verdict.WAITING:
            return f"It is on its way to {_count_targets(facts)} of {user}.{why}"
        case Verdict.CANCELLED:
            return f"{user} did not receive it: the notification was cancelled before it was sent."
        case Verdict.EXPIRED:
            expired_at = _format_instant(facts.notification.expires_at)
            return f"{user} did not receive it: it expired at {expired_at} before it could be sent."
        case _:
            return f"{user} did not receive it; it was planned for {_count_targets(facts)}."


def _count_targets(facts: ExplainInput) -> str:
    """Return what it was planned for: the number of contact points, which are devices on Web Push, and the feed."""
    channels = [trace.channel for trace in facts.deliveries if trace.channel != FEED_CHANNEL]
    feed = "the feed" if len(channels) < len(facts.deliveries) else ""
    points = _pluralize(len(channels), "device" if set(channels) <= {_PUSH} else "contact point") if channels else ""
    return " and ".join(filter(None, (points, feed)))


def _format_delivery(delivery: DeliveryTrace, facts: ExplainInput) -> str:
    is_push = delivery.channel == _PUSH
    target = delivery.target_label or ("a removed device" if is_push else f"on {delivery.channel}")
    after_attempts = f"after {_pluralize(len(delivery.attempts), 'attempt')}"
    last = delivery.attempts[-1] if delivery.attempts else None
    why = delivery.why or (last.why if last else None)
    because = f": {why.rstrip('.')}" if why else ""
    status = f" (status {last.status})" if last is not None and last.status is not None else ""
    match delivery.state:
        case DeliveryState.DELIVERED:
            accepted_at = last.finished_at if last is not None else delivery.updated_at
            place = (
                "stored in the feed"
                if delivery.channel == FEED_CHANNEL
                else f"accepted by the {delivery.channel} service"
            )
            accepted = f"{place} at {_format_instant(accepted_at)}"
            elapsed = _format_elapsed(facts.notification, accepted_at)
            since = _format_receipts(delivery) + _format_engagement(delivery)
            return f"{target}: {accepted}, {elapsed}{after_attempts}{status}.{since}"
        case DeliveryState.PENDING if facts.superseded_by is not None:
            return (
                f"{target}: will not be sent: the newer notification {facts.superseded_by} on its subject replaces it."
            )
        case DeliveryState.PENDING | DeliveryState.SENDING if last is not None:
            due_at = _format_instant(delivery.due_at)
            return f"{target}: not delivered {after_attempts}{because}{status}; next attempt at {due_at}."
        case DeliveryState.PENDING if delivery.held_by is not None:
            until = f"{_format_instant(delivery.due_at)}{_format_local(delivery.due_at, delivery.detail)}"
            return f"{target}: held by {delivery.held_by} until {until}{_format_inputs(delivery.detail)}."
        case DeliveryState.PENDING:
            return f"{target}: planned, due at {_format_instant(delivery.due_at)}."
        case DeliveryState.SENDING:
            return f"{target}: being sent now."
        case DeliveryState.GONE:
            ended_at = _format_instant(delivery.updated_at)
            ended = "the subscription ended" if is_push else "the address is not usable any more"
            return f"{target}: {ended}{because}{status}, recorded at {ended_at}."
        case DeliveryState.REFUSED:
            failed_at = _format_instant(delivery.updated_at)
            return f"{target}: failed permanently {after_attempts} at {failed_at}{because}{status}."
        case DeliveryState.DISCARDED:
            return f"{target}: failed permanently {after_attempts}{because}{status}; discarded by an operator."
        case DeliveryState.UNCERTAIN:
            unknown = (
                f"{target}: it is unknown whether the provider took it{because}; not sent again, to avoid a repeat."
            )
            return unknown + _format_receipts(delivery)
        case DeliveryState.EXPIRED:
            expired_at = _format_instant(facts.notification.expires_at)
            return f"{target}: not sent in time, {after_attempts}{because}; it expired at {expired_at}."
        case DeliveryState.CANCELLED:
            return f"{target}: not sent, the notification was cancelled."
        case DeliveryState.SKIPPED:
            return f"{target}: not sent: {_format_preflight_reason(delivery, facts)}"


def _format_inputs(detail: Mapping[str, object]) -> str:
    """Return the inputs of a decision, or nothing."""
    return f" ({', '.join(f'{name}: {value}' for name, value in detail.items())})" if detail else ""


def _format_local(moment: datetime, detail: Mapping[str, object]) -> str:
    """Return a moment on the clock of the time zone that a rule recorded, or nothing."""
    zone = lookup_zone(str(detail.get("timezone", "UTC")))
    if zone is None or zone.key == "UTC":
        return ""
    return f", which is {moment.astimezone(zone):%Y-%m-%d %H:%M:%S} in {zone.key}"


def _format_receipts(delivery: DeliveryTrace) -> str:
    """Return what the provider reported since, or nothing."""
    status = delivery.receipt_status
    deciding = select_receipt(delivery.receipts, status)
    if status is None or deciding is None:
        return ""
    code = f" (code {deciding.code})" if deciding.code else ""
    when = _format_instant(deciding.occurred_at)
    return f" {deciding.provider} reported at {when}: {_RECEIPT_TEXTS[status]}{code}."


def _format_engagement(delivery: DeliveryTrace) -> str:
    """Return what was opened and clicked since, or nothing."""
    found = delivery.engagement
    if found is None:
        return ""
    people = f"{_pluralize(found.human_opens, 'open')} and {_pluralize(found.human_clicks, 'click')} by people"
    machines = f"{found.machine_opens} and {found.machine_clicks} by mail proxies and scanners"
    return f" Since then {people}, {machines}."


def _format_skip(skip: SkipTrace, facts: ExplainInput) -> str:
    why = _format_reason(skip.reason, skip.channel, skip.created_at, facts, skip.detail)
    return f"Nothing was sent on {skip.channel}: {why}"


def _format_preflight_reason(delivery: DeliveryTrace, facts: ExplainInput) -> str:
    """Return the reason that the preflight check recorded."""
    try:
        reason = SkipReason(delivery.why or "")
    except ValueError:
        return f"the preflight check failed: {delivery.why or 'no reason was recorded'}."
    return _format_reason(reason, delivery.channel, delivery.updated_at, facts, delivery.detail)


def _format_reason(
    reason: SkipReason, channel: str, moment: datetime, facts: ExplainInput, detail: Mapping[str, object]
) -> str:
    error = detail.get("error") or detail.get("why")
    return _REASON_TEMPLATES[reason].format(
        channel=channel,
        user=facts.user_id,
        when=_format_instant(moment),
        opt_out=describe_opt_out(detail, facts.user_id, facts.notification.category, channel),
        default=describe_default(detail, facts.notification.category, channel),
        error=f" ({error})" if error else "",
        rule=f"the rule {detail['rule']}" if "rule" in detail else "a rule",
        setting=f" (set {detail['setting']})" if detail.get("setting") else "",
        newer=f" ({detail['supersededBy']})" if "supersededBy" in detail else "",
        limit=_format_limit(detail),
        throttle=_format_throttle(detail),
        selection=_format_selection(detail),
        suppression=_format_suppression(detail),
        step_end=_format_step_end(detail),
        due=detail.get("dueAt", "a time of day"),
        catch_up=f" (within {detail['catchUpSeconds']} s)" if "catchUpSeconds" in detail else "",
    )


def _format_step_end(detail: Mapping[str, object]) -> str:
    """Return what cancelled the step, or nothing."""
    end = detail.get("by")
    return f" ({STEP_END_TEXTS[StepEnd(end)]})" if isinstance(end, str) else ""


def _format_selection(detail: Mapping[str, object]) -> str:
    """Return the channel that is used instead, and why."""
    selected, counts = detail.get("selected"), detail.get("counts")
    if selected is None:
        return ""
    if not isinstance(counts, Mapping) or not counts:
        return f": {selected}, the first, because there was no engagement in {detail.get('days')} days"
    compared = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return f": {selected}, with the most engagement in {detail.get('days')} days ({compared})"


def _format_suppression(detail: Mapping[str, object]) -> str:
    """Return why and since when the address is suppressed, and its id, with which it can be lifted."""
    if "suppressedFor" not in detail:
        return ""
    cause = _SUPPRESSION_CAUSES.get(str(detail["suppressedFor"]), str(detail["suppressedFor"]))
    until = f", until {detail['until']}" if "until" in detail else ""
    return f": {cause} since {detail['since']}{until} (suppression {detail['suppressionId']})"


def _format_throttle(detail: Mapping[str, object]) -> str:
    """Return the recorded limit, the count and when the next one is possible."""
    if "limit" not in detail:
        return ""
    until = f", until {detail['windowEnd']}" if detail.get("windowEnd") else ""
    return f" ({detail.get('count', detail['limit'])} of {detail['limit']}{until})"


def _format_limit(detail: Mapping[str, object]) -> str:
    """Return the recorded limit and its scope: a category, or all categories without a limit of their own."""
    if "limit" not in detail:
        return ""
    return f" ({detail['limit']} of {detail['scope']})" if detail.get("scope") else f" ({detail['limit']} in total)"


def _format_no_record(facts: ExplainInput, verdict: Verdict) -> str:
    user, notification = facts.user_id, facts.notification
    match verdict:
        case Verdict.UNKNOWN_USER:
            return f"{user} is an unknown user: never created, or erased."
        case Verdict.CANCELLED:
            return f"The notification was cancelled before it was planned for {user}; nothing was sent."
        case Verdict.JOINED_LATER:
            planned_after = _format_instant(max(notification.send_at, notification.created_at))
            return f"{user} is in the audience now, but was not when it was planned after {planned_after}."
        case Verdict.WAITING:
            return _format_waiting(facts)
        case _:
            return f"{user} is not in the audience of this notification."


def _format_waiting(facts: ExplainInput) -> str:
    notification = facts.notification
    if facts.superseded_by is not None:
        return f"It will not be sent: the newer notification {facts.superseded_by} on its subject replaces it."
    if notification.send_at > facts.now:
        send_at = _format_instant(notification.send_at)
        return f"Scheduled for {send_at}; {facts.user_id} is in the audience at present."
    planned = _pluralize(notification.recipients, "recipient")
    return f"The audience is being planned ({planned} so far); {facts.user_id} has not been reached yet."


def _format_current_devices(facts: ExplainInput) -> str:
    active = sum(subscription.state is SubscriptionState.ACTIVE for subscription in facts.subscriptions)
    inactive = len(facts.subscriptions) - active
    rest = f" and {_pluralize(inactive, 'inactive device')}" if inactive else ""
    return f"{facts.user_id} now has {_pluralize(active, 'active device') if active else 'no active device'}{rest}."


def _format_elapsed(notification: Notification, moment: datetime) -> str:
    """Return the time since the notification was due, or nothing if it is a day or more."""
    start = max(notification.created_at, notification.send_at)
    elapsed = moment - start
    if not timedelta(0) <= elapsed < timedelta(days=1):
        return ""
    seconds = elapsed.total_seconds()
    return f"{seconds * 1000:.0f} ms after the start, " if seconds < 1 else f"{seconds:.1f} s after the start, "


def _pluralize(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _format_instant(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 100_000} UTC"
