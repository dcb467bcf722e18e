"""When and how often a notification is sent: its steps, digest and throttle. Declared by templates, set by callers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

#: maximum length of the value of a key, in characters
MAX_PLAN_KEY_LENGTH = 200
#: which of the channels that reach a user are used: all, or the one on which the user was most engaged
ChannelSelection = Literal["all", "mostEngaged"]
#: what ends the wait for a later step, besides a domain event
Success = Literal["delivered", "seen", "read", "clicked"]


class DomainEvent(msgspec.Struct, frozen=True, rename="camel"):
    """A domain event of the host that ends a wait, such as `invoice.paid`."""

    event: str


class Step(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Channels that are used together, after a wait, unless something happened."""

    channels: tuple[str, ...]
    #: seconds after the step before was handed over
    after_seconds: int = 0
    #: what cancels the step; None = nothing
    unless: Success | DomainEvent | None = None

    @property
    def event(self) -> str | None:
        """The type of the domain event that cancels the step."""
        return self.unless.event if isinstance(self.unless, DomainEvent) else None


class DigestOptions(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How notifications of one key are collected for a user and closed into one message."""

    #: minijinja expression over the variables; empty = one digest per user
    key: str = ""
    #: seconds from the first notification; None with `at`
    window_seconds: int | None = None
    #: each further notification extends the window, up to `max_seconds` from the first
    sliding: bool = False
    max_seconds: int | None = None
    #: closes early with so many notifications
    max_items: int | None = None
    #: the first notification is sent at once, and not repeated in the digest
    first_at_once: bool = False
    #: `08:00` or `MON 08:00` in the user's time zone, instead of a window
    at: str | None = None
    #: with `at`: what is overdue for longer is left out; None = for longer than a day, or a week with a day of the week
    catch_up_seconds: int | None = None
    #: the channels that are collected; empty = all. The others are sent at once
    channels: tuple[str, ...] = ()
    #: what `key` is for the notification; None before it is accepted
    key_value: str | None = None

    def find_error(self) -> str | None:
        """Return what is wrong with the window, None if nothing is."""
        if (self.window_seconds is None) == (self.at is None):
            return "give windowSeconds or at, and not both"
        if self.sliding and (self.window_seconds is None or self.max_seconds is None):
            return "a sliding window needs windowSeconds and maxSeconds"
        if self.max_seconds is not None and self.window_seconds is not None and self.max_seconds < self.window_seconds:
            return "maxSeconds must not be less than windowSeconds"
        if self.catch_up_seconds is not None and self.at is None:
            return "catchUpSeconds needs at: a window closes however late"
        return None


class ThrottleOptions(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How many notifications of one key a user receives in a window."""

    limit: int
    window_seconds: int
    #: minijinja expression over the variables; empty = one count per user and template
    key: str = ""
    #: what happens to the excess
    instead: Literal["skip", "digest"] = "skip"
    #: what `key` is for the notification; None before it is accepted
    key_value: str | None = None


class PlanOptions(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The options together, as they are stored with a notification."""

    #: empty = all channels at once
    steps: tuple[Step, ...] = ()
    digest: DigestOptions | None = None
    throttle: ThrottleOptions | None = None
    #: among the channels of a step, if there are steps
    channel_selection: ChannelSelection = "all"

    @property
    def events(self) -> Sequence[str]:
        """The types of the domain events that cancel steps, each once."""
        return list(dict.fromkeys(step.event for step in self.steps if step.event is not None))

    @property
    def has_overflow_digest(self) -> bool:
        """Whether only what is over the throttle is collected into the digest."""
        return self.throttle is not None and self.throttle.instead == "digest" and self.digest is not None

    def find_error(self) -> str | None:
        """Return why the steps and the digest do not fit together, None if they do.

        A digest collects a notification before its first step. If it collected some of their channels only, the steps
        of each notification would run beside those of the digest.
        """
        if not self.steps or self.digest is None or not self.digest.channels:
            return None
        if {channel for step in self.steps for channel in step.channels} <= set(self.digest.channels):
            return None
        return "must name all channels of the steps, or be left out"

    def to_json(self) -> Mapping[str, object] | None:
        """Return the stored form, None if nothing is set."""
        return msgspec.to_builtins(self) or None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "PlanOptions":
        """Return the options of the stored form."""
        return msgspec.convert(stored, cls) if stored else NO_PLAN_OPTIONS


NO_PLAN_OPTIONS = PlanOptions()
