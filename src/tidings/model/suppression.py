"""Suppressions: addresses to which nothing more is sent on a channel, and which messages each of them stops. Pure.

A suppression belongs to the address, not to a user: several users may share an address, and a user may have several.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from tidings.model.template import Category

#: scope of a suppression of all categories; and of one that holds for every sender
ALL = ""


class SuppressionReason(StrEnum):
    """Why nothing more is sent to an address. docs/reference/suppressions.md explains each."""

    #: the address does not exist
    HARD_BOUNCE = "hard_bounce"
    #: messages were refused several times within some days, for causes that pass; ends by itself
    SOFT_BOUNCES = "soft_bounces"
    #: the recipient reported a message as spam
    COMPLAINT = "complaint"
    #: the recipient unsubscribed with the provider
    UNSUBSCRIBE = "unsubscribe"
    #: the recipient answered STOP
    OPT_OUT = "opt_out"
    #: the provider delivers nothing to the recipient, who opted out with it (Twilio's error 21610)
    PROVIDER_OPT_OUT = "provider_opt_out"
    #: an operator decided it
    MANUAL = "manual"


#: mandatory messages, such as password resets, are sent in spite of these: the address exists, and its owner did not
#: refuse messages that are required
_SPARES_MANDATORY = frozenset(
    {SuppressionReason.SOFT_BOUNCES, SuppressionReason.COMPLAINT, SuppressionReason.UNSUBSCRIBE}
)
#: a later confirmed delivery disproves these
BOUNCE_REASONS = frozenset({SuppressionReason.HARD_BOUNCE, SuppressionReason.SOFT_BOUNCES})
#: START of the recipient ends these
OPT_OUT_REASONS = frozenset({SuppressionReason.OPT_OUT, SuppressionReason.PROVIDER_OPT_OUT})


class Suppression(msgspec.Struct, frozen=True):
    """A suppression of an address, unique by address, sender, category and reason."""

    id: str
    channel: str
    reason: SuppressionReason
    #: None after the erasure of its user: only the keyed hash is left, which still stops messages
    address: str | None
    created_at: datetime
    #: when its cause was last observed
    last_event_at: datetime
    #: the sender that it holds for, `ALL` = every sender of the channel
    sender: str = ALL
    #: the category that it holds for, `ALL` = every category
    category: str = ALL
    #: where it was observed: a provider, `api`, `cli`
    source: str = ""
    #: id of the API key, or `system`
    author: str = "system"
    #: how often its cause was observed
    count: int = 1
    #: when it ends by itself, None = when it is lifted
    expires_at: datetime | None = None
    lifted_at: datetime | None = None
    lifted_by: str | None = None
    lift_reason: str | None = None

    @property
    def scope(self) -> str:
        """`category`, or `all`."""
        return "category" if self.category != ALL else "all"

    def is_active(self, now: datetime) -> bool:
        """Whether it stops messages."""
        return self.lifted_at is None and (self.expires_at is None or now < self.expires_at)

    def describe(self) -> Mapping[str, object]:
        """Return the detail of a skip."""
        detail: dict[str, object] = {
            "suppressionId": self.id,
            "suppressedFor": self.reason.value,
            "since": self.created_at.isoformat(timespec="seconds"),
            "count": self.count,
        }
        if self.expires_at is not None:
            detail["until"] = self.expires_at.isoformat(timespec="seconds")
        return detail


class SoftBouncePolicy(msgspec.Struct, frozen=True):
    """When bounces for causes that pass suppress an address, and for how long."""

    #: in a row, without a confirmed delivery in between
    bounces: int = 5
    within: timedelta = timedelta(days=14)
    suppressed_for: timedelta = timedelta(days=7)


class SuppressionFilter(msgspec.Struct, frozen=True):
    """Which suppressions are listed."""

    channel: str | None = None
    address: str | None = None
    reason: SuppressionReason | None = None
    #: those that were lifted or have expired, too
    include_ended: bool = False


def find_suppression(
    suppressions: Sequence[Suppression], category: Category, senders: Collection[str], now: datetime
) -> Suppression | None:
    """Return the suppression that stops a message of a category, None if it may be sent.

    suppressions: those of its address. senders: those of the channel; one that opted-out recipients know by another
    sender may still be used. Of several the most recent is returned.
    """
    if not suppressions:
        # nearly every message
        return None
    known = {normalize_sender(sender) for sender in senders}
    stopping = [
        suppression
        for suppression in suppressions
        if suppression.is_active(now)
        and suppression.category in (ALL, category.code)
        and (suppression.sender == ALL or normalize_sender(suppression.sender) in known)
        and not (category.is_mandatory(suppression.channel) and suppression.reason in _SPARES_MANDATORY)
    ]
    return max(stopping, key=lambda suppression: (suppression.last_event_at, suppression.id), default=None)


def normalize_sender(sender: str) -> str:
    """Return a sender as it is compared: providers write numbers with and without a plus."""
    return sender.strip().removeprefix("+").casefold()
