"""The inputs of the rules: a candidate, and the context that all candidates of a notification share."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from tidings.model.channel import DEFAULT_TRAITS, ChannelTraits
from tidings.model.consent import ConsentGranted
from tidings.model.decision import Defer, Skip
from tidings.model.notification import Notification
from tidings.model.preference import Preference
from tidings.model.suppression import Suppression
from tidings.model.template import Category
from tidings.model.user_schedule import NO_SCHEDULE, NO_SCHEDULE_DEFAULTS, ScheduleDefaults, UserSchedule
from tidings.ports.pack import PackRule


def _get_default_traits(_channel: str) -> ChannelTraits:
    return DEFAULT_TRAITS


NO_RULES: Mapping[str, PackRule] = MappingProxyType({})


class Candidate(msgspec.Struct, frozen=True):
    """One user on one channel: a recipient that is planned, or a claimed delivery that is about to be sent."""

    user_id: str
    channel: str
    #: those of the user that may apply
    preferences: Sequence[Preference]
    #: whether the user can be reached on the channel
    has_contact_point: bool
    #: IANA name
    timezone: str = "UTC"
    #: IANA name that the device reported, as it is stored; None = it reported none
    device_timezone: str | None = None
    schedule: UserSchedule = NO_SCHEDULE
    #: the user last heard the same of the notification's subject
    is_informed: bool = False
    # the following can change between planning and sending only
    user_exists: bool = True
    is_in_audience: bool = True
    is_cancelled: bool = False
    #: the newer notification that superseded it
    superseded_by: str | None = None
    #: what cancelled the later step that it belongs to
    step_ended_by: str | None = None
    #: of the address of the delivery
    suppressions: Sequence[Suppression] = ()
    #: the rule that has held it until now
    held_by: str | None = None
    #: the user has seen or read the notification in the feed; known of held deliveries only
    is_seen: bool = False


class PlanContext(msgspec.Struct, frozen=True):
    """What all candidates of a notification share."""

    notification: Notification
    category: Category
    #: the configured channels
    channels: Collection[str]
    now: datetime
    #: a message with less time left than this is not sent
    min_lifetime: timedelta = timedelta(0)
    get_traits: Callable[[str], ChannelTraits] = _get_default_traits
    #: entries of the installation, which users override
    preference_defaults: Sequence[Preference] = ()
    #: channel → its senders, such as phone numbers
    get_senders: Callable[[str], Collection[str]] = lambda _channel: ()
    schedule_defaults: ScheduleDefaults = NO_SCHEDULE_DEFAULTS
    #: name → rule of a pack
    pack_rules: Mapping[str, PackRule] = NO_RULES


#: Returns None to leave the decision to the next rule. `ConsentGranted` does so too, and records why the user receives
#: the category.
Rule: TypeAlias = Callable[[Candidate, PlanContext], Skip | Defer | ConsentGranted | None]
