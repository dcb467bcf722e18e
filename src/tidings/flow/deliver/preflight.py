"""The preflight check: whether a planned delivery may still be sent. Pure."""

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.consent import check_consent
from tidings.model.delivery import ClaimedDelivery, SkipReason
from tidings.model.notification import Notification
from tidings.model.suppression import Suppression, find_suppression
from tidings.model.template import Category

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
    traits: ChannelTraits = DEFAULT_TRAITS,
    senders: Collection[str] = (),
) -> SkipReason | Suppression | None:
    """Return the reason for which this delivery must not be sent any more, None if it may be sent.

    traits, senders: of the delivery's channel. Every message of every channel passes this check, so it is the only
    place at which suppressions are applied.
    """
    if delivery.is_cancelled:
        return SkipReason.CANCELLED
    if delivery.superseded_by is not None:
        return SkipReason.SUPERSEDED
    if now + MIN_LIFETIME > notification.expires_at:
        return SkipReason.EXPIRED
    if delivery.locale is None:
        return SkipReason.USER_ERASED
    if not is_in_audience:
        return SkipReason.LEFT_AUDIENCE
    if traits.needs_contact_point and (delivery.target is None or not delivery.target.is_usable):
        return traits.missing_contact
    decision = check_consent(delivery.preference, category)
    if isinstance(decision, SkipReason):
        return decision
    return find_suppression(delivery.suppressions, category, senders, now)
