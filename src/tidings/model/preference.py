"""Preferences: the entries with which a user turns categories and channels on and off."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from operator import eq, ge, gt, le, lt, ne
from typing import Any

import msgspec

from tidings.model.subject import SEPARATOR, list_path

#: entries of one user at most
MAX_ENTRIES = 1_000
#: as a category, channel or subject of an entry: all of them
ANY = ""
#: instead of a subject: the entries for all subjects are read
ALL_SUBJECTS = "*"

_CHOICES = {"on": True, "off": False}


class Operator(StrEnum):
    """How a condition compares a variable with its value."""

    EQUAL = "eq"
    NOT_EQUAL = "ne"
    LESS = "lt"
    LESS_OR_EQUAL = "lte"
    GREATER = "gt"
    GREATER_OR_EQUAL = "gte"


_COMPARISONS: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: eq,
    Operator.NOT_EQUAL: ne,
    Operator.LESS: lt,
    Operator.LESS_OR_EQUAL: le,
    Operator.GREATER: gt,
    Operator.GREATER_OR_EQUAL: ge,
}


class Condition(msgspec.Struct, frozen=True):
    """A comparison with a variable of the notification, such as `amount` is at least 5."""

    variable: str
    operator: Operator
    value: int | float | str

    @classmethod
    def from_json(cls, stored: Mapping[str, object] | None) -> "Condition | None":
        """Return the condition of its stored form."""
        return msgspec.convert(stored, cls) if stored else None

    def to_json(self) -> Mapping[str, object]:
        """Return the stored form."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]  # a struct becomes a dict

    def evaluate(self, variables: Mapping[str, object]) -> bool | None:
        """Return the result, None if there is no such variable, or it is of another type than the value."""
        actual = variables.get(self.variable)
        kind = str if isinstance(self.value, str) else (int, float)
        if not isinstance(actual, kind) or isinstance(actual, bool):
            return None
        return _COMPARISONS[self.operator](actual, self.value)


class Preference(msgspec.Struct, frozen=True):
    """A user's choice to receive something or not. Each of category, channel and subject may be `ANY`."""

    category: str
    channel: str
    enabled: bool
    #: such as `event:9`: applies to notifications on it, and on the subjects below it
    subject: str = ANY
    #: of an entry that says yes: the notification is sent only if it is met
    condition: Condition | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Category, channel and subject: a user has one entry of each."""
        return (self.category, self.channel, self.subject)

    def is_for(self, category: str, channel: str, subject: str | None) -> bool:
        """Return whether the entry says something of a category on a channel, for a notification on a subject."""
        return (
            (self.channel in (ANY, channel))
            and (self.category in (ANY, category))
            and (not self.subject or is_at_or_below(subject, self.subject))
        )

    def describe(self) -> str:
        """Return what the entry is for, in words."""
        scope = " on ".join(filter(None, (self.category, self.channel))) or "everything"
        about = f" about {self.subject}" if self.subject else ""
        condition = self.condition
        if condition is None:
            return scope + about
        return f"{scope}{about} if {condition.variable} {condition.operator} {condition.value!r}"

    def to_json(self) -> dict[str, object]:
        """Return the entry for responses and recorded decisions. What applies to all is left out."""
        named = {"category": self.category, "channel": self.channel, "object": self.subject}
        entry: dict[str, object] = {name: value for name, value in named.items() if value}
        entry["enabled"] = self.enabled
        if self.condition is not None:
            entry["condition"] = self.condition.to_json()
        return entry


class PreferenceIndex:
    """The entries of one user by subject. For many notifications to a user, not all entries are read for each."""

    def __init__(self, preferences: Sequence[Preference]) -> None:
        self._by_subject: dict[str, list[Preference]] = {}
        for entry in preferences:
            self._by_subject.setdefault(entry.subject, []).append(entry)

    def select(self, subject: str | None) -> Sequence[Preference]:
        """Return the entries that may apply to a notification on a subject: for it, for those above it, and for all."""
        keys = [*(list_path(subject) if subject else ()), ANY]
        return [entry for key in keys for entry in self._by_subject.get(key, ())]


def parse_default(text: str) -> Preference:
    """Return the entry of `CATEGORY:channel=on`, as in the setting `TIDINGS_PREFERENCE_DEFAULTS`.

    `*` stands for all; without `:channel` it is for all channels. Raises ValueError for another form.
    """
    scope, separator, choice = text.partition("=")
    category, _, channel = (part.strip() for part in scope.partition(":"))
    if not separator or choice.strip() not in _CHOICES or not category or (":" in scope and not channel):
        raise ValueError(
            f"{text!r} is not CATEGORY=off or CATEGORY:channel=off; an example is NEW_EVENT:email=off,*:sms=off"
        )
    names = [ANY if name == "*" else name for name in (category, channel)]
    return Preference(names[0], names[1], _CHOICES[choice.strip()])


def build_opt_out(category: str, channel: str, entries: Sequence[Preference]) -> list[Preference]:
    """Return the entries that turn a category off on a channel, also for the subjects for which it is on now.

    entries: those of the user. What is mandatory is not affected, because no entry is stronger.
    """
    subjects = {
        entry.subject
        for entry in entries
        if entry.subject and entry.enabled and entry.is_for(category, channel, entry.subject)
    }
    return [Preference(category, channel, False, subject) for subject in (ANY, *sorted(subjects))]


def is_at_or_below(subject: str | None, key: str) -> bool:
    """Return whether a subject is `key`, or one of the subjects below it."""
    return subject is not None and (subject == key or subject.startswith(key + SEPARATOR))
