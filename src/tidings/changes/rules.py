"""Change rules for a kind of object, declared as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tidings.model.change import ValueKind
from tidings.model.priority import Priority

#: one version of an object: field name → text, instant, status or None
ObjectVersion = Mapping[str, object]
#: old, new → whether the rule applies
Condition = Callable[[ObjectVersion, ObjectVersion], bool]


@dataclass(frozen=True, slots=True)
class WatchedField:
    """A field to compare, and the kind of its values."""

    name: str
    kind: ValueKind = ValueKind.TEXT


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """The fields whose changes have one type."""

    #: `time_change`, `venue_change`, …
    type: str
    fields: tuple[WatchedField, ...]
    priority: Priority
    #: whether it deserves a notification
    is_significant: bool = True
    #: evaluated only when one of the fields differs; None = the rule always applies
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class ChangeRuleSet:
    """The rules of one kind of object, most important first.

    A changed field belongs to the first rule that applies, so a special case (`cancellation`) precedes the general one
    (`status_change`). Raises ValueError if a type is declared twice or a rule has no fields.
    """

    rules: tuple[ChangeRule, ...]

    def __post_init__(self) -> None:
        types = [rule.type for rule in self.rules]
        if len(set(types)) != len(types):
            raise ValueError(f"a change type is declared twice: {', '.join(types)}")
        for rule in self.rules:
            if not rule.fields:
                raise ValueError(f"rule {rule.type} has no fields")


def becomes(field: str, value: str) -> Condition:
    """Return the condition that a field has this value now and did not have it before."""

    def holds(old: ObjectVersion, new: ObjectVersion) -> bool:
        return new.get(field) == value and old.get(field) != value

    return holds
