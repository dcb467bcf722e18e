"""The world of the machine of digests, quiet hours and steps: four users, three channels, and what users did so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.adapters.state_machine.model_world import Backend, World

from tidings.flow.catalog import Catalog
from tidings.model.channel import ChannelTraits
from tidings.model.delivery import OutboundMessage
from tidings.model.plan_options import DigestOptions, DomainEvent, Step, ThrottleOptions
from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText
from tidings.model.user import User
from tidings.model.user_schedule import QuietHours, UserSchedule
from tidings.packs import core
from tidings.ports.pack import Pack
from tidings.testing.clock import FrozenClock

CHANNELS = ("inapp", "email", "sms")
#: user → the channels with an address
ADDRESSES: Mapping[str, Sequence[str]] = {
    "ana": ("email", "sms"),
    "ben": ("email",),
    "cem": (),
    "dora": ("email", "sms"),
}
ALL_USERS = tuple(ADDRESSES)
EVENT = "invoice.paid"
PACK = Pack(
    name="plan",
    categories=(Category("NEWS", "News"), Category("DUTY", "Duties", mandatory=True)),
    templates=tuple(
        Template(code=code, category=code, priority=Priority.NORMAL, texts={"en": TemplateText("{{ title }}", "")})
        for code in ("NEWS", "DUTY")
    ),
)
_TRAITS = {"inapp": ChannelTraits(needs_contact_point=False, interrupts=False)}
WINDOW = 600
MAX_SLIDE = 300
MAX_ITEMS = 2
DAILY_AT = "12:10"
#: name and offset from UTC, in minutes, of time zones whose clocks never change
ZONES = (("UTC", 0), ("Asia/Kolkata", 330), ("Pacific/Honolulu", -600))
#: name → how a notification is collected. The name is the key of the digest, so that each has digests of its own
DIGESTS: Mapping[str, DigestOptions | None] = {
    "alone": None,
    "fixed": DigestOptions(key="mode", window_seconds=WINDOW),
    "sliding": DigestOptions(key="mode", window_seconds=90, sliding=True, max_seconds=MAX_SLIDE),
    "first": DigestOptions(key="mode", window_seconds=WINDOW, first_at_once=True),
    "full": DigestOptions(key="mode", window_seconds=3600, max_items=MAX_ITEMS),
    "email": DigestOptions(key="mode", window_seconds=WINDOW, channels=("email",)),
    "daily": DigestOptions(key="mode", at=DAILY_AT),
    "overflow": DigestOptions(key="mode", window_seconds=WINDOW),
}
THROTTLES: Mapping[str, ThrottleOptions] = {"overflow": ThrottleOptions(1, WINDOW, instead="digest")}
STEPS: Mapping[str, tuple[Step, ...]] = {
    "none": (),
    "escalated": (Step(("inapp",)), Step(("email",), 60, "seen"), Step(("sms",), 120, "read")),
    "until_paid": (Step(("email",)), Step(("sms",), 60, DomainEvent(EVENT)), Step(("inapp",), 5)),
    "until_delivered": (Step(("sms",)), Step(("email",), 60, "delivered"), Step(("inapp",), 30, "seen")),
    "both": (Step(("email", "sms")), Step(("inapp",), 30)),
}
#: notification, user, channel
StepKey = tuple[str, str, str]


@dataclass(frozen=True)
class QuietWindow:
    """Quiet hours in a time zone whose clock never changes."""

    zone: str
    offset: timedelta
    start: int
    minutes: int
    channels: tuple[str, ...]

    def holds(self, channel: str, at: datetime) -> bool:
        """Return whether an instant is within the window, [start, end) in minutes of the local day."""
        local = at + self.offset
        minute = local.hour * 60 + local.minute
        return (not self.channels or channel in self.channels) and (minute - self.start) % 1440 < self.minutes

    def to_schedule(self) -> UserSchedule:
        end = (self.start + self.minutes) % 1440
        window = QuietHours(_to_clock(self.start), _to_clock(end), channels=self.channels)
        return UserSchedule(self.zone, (window,))


@dataclass(frozen=True)
class StartedSend:
    """A send that started, with what applied at that moment."""

    notification_id: str
    user_id: str
    channel: str
    is_quiet: bool
    is_expired: bool
    #: a later step that the user or the host made unnecessary before
    is_silenced: bool
    #: the categories that the user had turned off on the channel
    opted_out: frozenset[str]


@dataclass
class UserActions:
    """What users and the host did so far, by confirmed calls, and the sends that started since."""

    quiet: dict[str, QuietWindow | None] = field(default_factory=dict)
    #: users whose schedule is being changed, so that either may apply
    changing: set[str] = field(default_factory=set)
    #: user, category, channel
    opted_out: set[tuple[str, str, str]] = field(default_factory=set)
    ever_opted_out: set[str] = field(default_factory=set)
    #: step → ids of the deliveries that were past their last check when it was silenced
    silenced: dict[StepKey, set[str]] = field(default_factory=dict)
    #: notification and user: collected while the user marked it, or its sender cancelled it
    must_leave_digest: set[tuple[str, str]] = field(default_factory=set)
    #: notification and user: what the user marked
    marked: set[tuple[str, str]] = field(default_factory=set)
    #: users about whom the host's event came
    paid: set[str] = field(default_factory=set)
    sends: list[StartedSend] = field(default_factory=list)

    def is_quiet(self, user_id: str, channel: str, at: datetime) -> bool:
        """Return whether messages to a user on a channel are held at an instant."""
        window = self.quiet.get(user_id)
        return channel != "inapp" and user_id not in self.changing and window is not None and window.holds(channel, at)

    def record_start(self, message: OutboundMessage, now: datetime) -> None:
        """Record a send that starts now."""
        user, channel = message.target.user_id, getattr(message.target, "channel", "")
        step = (message.notification_id, user, channel)
        was_begun = message.delivery_id in self.silenced.get(step, ())
        if was_begun:
            self.silenced[step].discard(message.delivery_id)
        self.sends.append(
            StartedSend(
                *step,
                is_quiet=message.priority is not Priority.URGENT and self.is_quiet(user, channel, now),
                is_expired=message.expires_at <= now,
                is_silenced=step in self.silenced and not was_begun,
                opted_out=frozenset(category for who, category, on in self.opted_out if (who, on) == (user, channel)),
            )
        )


class PlanWorld(World):
    """A world whose users have addresses, feeds, schedules and preferences."""

    def __init__(self, backend: Backend, clock: FrozenClock) -> None:
        self.actions = UserActions()
        super().__init__(backend, clock, user_limit=1000)
        self.provider_log.on_start = lambda message: self.actions.record_start(message, clock.now())

    def create_catalog(self) -> Catalog:
        """Return the templates and channels of all processes."""
        return Catalog.from_packs([core.pack, PACK], channels=CHANNELS, known_channels=CHANNELS, traits=_TRAITS)

    async def add_users(self) -> None:
        """Store the users with their addresses; one that was refused for good is usable again."""
        people = [
            User(
                name,
                email=f"{name}@example.org" if "email" in channels else None,
                phone=f"+49151123450{number}" if "sms" in channels else None,
            )
            for number, (name, channels) in enumerate(ADDRESSES.items())
        ]
        async with self.store.transaction() as tx:
            await self.store.users.upsert(tx, people, self.clock.now())

    def list_in_last_check(self) -> set[str]:
        """Return the deliveries of later steps that some process checks for the last time."""
        return {key for worker in self.workers for key, count in worker.in_last_check.items() if count}


def _to_clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
