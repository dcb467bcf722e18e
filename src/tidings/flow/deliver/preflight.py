"""The preflight check: whether a planned delivery may still be sent. Pure."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from tidings.flow.plan.candidate import NO_RULES, Candidate, PlanContext
from tidings.flow.plan.chain import decide
from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.decision import Defer, Skip
from tidings.model.delivery import ClaimedDelivery
from tidings.model.notification import Notification
from tidings.model.preference import Preference
from tidings.model.template import Category
from tidings.model.user_schedule import NO_SCHEDULE_DEFAULTS, ScheduleDefaults
from tidings.ports.pack import PackRule

#: A delivery planned longer ago than this is checked against its audience again. Every retry waits longer, so a ticket
#: that is returned in the meantime stops the message. In a long broadcast this costs one query per claim.
MAX_AUDIENCE_STALENESS = timedelta(seconds=1.5)
#: a message with less time left is not sent: no channel can say that it expires in less than a second
MIN_LIFETIME = timedelta(seconds=1)


class DeliveryJob(msgspec.Struct, frozen=True):
    """A claimed delivery with the data needed to check, render and send it."""

    delivery: ClaimedDelivery
    notification: Notification
    category: Category
    #: whether the user was in the audience according to the last check
    is_in_audience: bool
    #: when its data was read from the database
    read_at: datetime
    traits: ChannelTraits = DEFAULT_TRAITS
    #: entries of the installation
    preference_defaults: Sequence[Preference] = ()


def is_stale(delivery: ClaimedDelivery, trusted_since: datetime) -> bool:
    """Return whether audience membership must be read again; see `MAX_AUDIENCE_STALENESS`."""
    return delivery.attempts > 0 or delivery.created_at < trusted_since


def preflight(
    delivery: ClaimedDelivery,
    notification: Notification,
    category: Category,
    *,
    is_in_audience: bool,
    now: datetime,
    channels: Collection[str],
    traits: ChannelTraits = DEFAULT_TRAITS,
    senders: Collection[str] = (),
    schedule_defaults: ScheduleDefaults = NO_SCHEDULE_DEFAULTS,
    preference_defaults: Sequence[Preference] = (),
    pack_rules: Mapping[str, PackRule] = NO_RULES,
) -> Skip | Defer | None:
    """Ask the rules of the plan again, with the data of now. Returns what stops this delivery, None if it may be sent.

    channels: those that are configured. traits, senders: of the delivery's channel. schedule_defaults: of users
    without a schedule. preference_defaults: of the installation. pack_rules: name → rule.
    """
    candidate = Candidate(
        delivery.user_id,
        delivery.channel,
        delivery.preferences,
        has_contact_point=delivery.target is not None and delivery.target.is_usable,
        timezone=delivery.timezone or "UTC",
        device_timezone=delivery.device_timezone,
        schedule=delivery.schedule,
        user_exists=delivery.locale is not None,
        is_in_audience=is_in_audience,
        is_cancelled=delivery.is_cancelled,
        superseded_by=delivery.superseded_by,
        step_ended_by=delivery.step_ended_by,
        suppressions=delivery.suppressions,
        held_by=delivery.held_by,
        is_seen=delivery.is_seen,
    )
    context = PlanContext(
        notification,
        category,
        channels,
        now,
        min_lifetime=MIN_LIFETIME,
        get_traits=lambda _channel: traits,
        preference_defaults=preference_defaults,
        get_senders=lambda _channel: senders,
        schedule_defaults=schedule_defaults,
        pack_rules=pack_rules,
    )
    return decide(candidate, context).decision
