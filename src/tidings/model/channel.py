"""What the engine knows of a channel besides its name."""

from dataclasses import dataclass
from datetime import timedelta

from tidings.model.delivery import SkipReason
from tidings.model.outcome import MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class ChannelTraits:
    """The properties of a channel that planning, preflight, record and explain need."""

    #: what its contact points are called: device, e-mail address, phone number
    contact_noun: str = "contact point"
    #: False if it reaches every user, as in-app does
    needs_contact_point: bool = True
    #: False if it does not attract attention when a message arrives, as in-app: quiet hours do not hold it
    interrupts: bool = True
    #: the reason of a skip for a user without a contact point
    missing_contact: SkipReason = SkipReason.NO_CONTACT_POINT
    #: attempts per delivery; a retry that spends none is not counted
    max_attempts: int = MAX_ATTEMPTS
    #: the setting that configures it, for messages; None = it needs none
    setting: str | None = None
    #: a contact point to which every attempt fails for so long is disabled, and its owner is notified; None = never
    disable_after: timedelta | None = None


DEFAULT_TRAITS = ChannelTraits()
