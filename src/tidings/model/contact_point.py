"""Contact points: where a user can be reached on a channel. Those of Web Push are `PushSubscription`s."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

#: target of deliveries on a channel without contact points, such as in-app
NO_CONTACT_POINT = "00000000-0000-0000-0000-000000000000"


class ContactPointState(StrEnum):
    """Whether messages are sent to a contact point."""

    ACTIVE = "active"
    #: the provider reported that the address does not exist (any more)
    GONE = "gone"
    #: the owner opted out with the provider, as a process of the previous version found; now a `Suppression`
    SUPPRESSED = "suppressed"
    #: it asked for no more messages, or failed for days; its owner can enable it again
    DISABLED = "disabled"


class ContactPoint(msgspec.Struct, frozen=True):
    """An address of a user on one channel."""

    id: str
    user_id: str
    channel: str
    #: e-mail address, phone number in E.164, URL …
    address: str
    #: the user's name for it
    label: str | None = None
    #: the channel's own data, JSON values
    attributes: Mapping[str, object] = {}
    state: ContactPointState = ContactPointState.ACTIVE
    created_at: datetime | None = None
    #: it is the e-mail address or phone number of the user's profile
    is_from_profile: bool = False
    #: incremented by each registration; an outcome applies only to the version that was tried
    version: int = 1
    #: the channel's secrets for this address, such as the signing secrets of a webhook endpoint
    secrets: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether messages may be sent to it."""
        return self.state is ContactPointState.ACTIVE
