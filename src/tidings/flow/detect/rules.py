"""What counts as a change of a kind of object: declared as data, most important first (MISSION M1)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tidings.model.change import ValueKind
from tidings.model.priority import Priority

#: one version of an object: field name → text, instant, status or None
Version = Mapping[str, object]
#: old, new → whether the rule applies
Condition = Callable[[Version, Version], bool]


@dataclass(frozen=True, slots=True)
class Field:
    """A watched field and how its values are shown."""

    name: str
    kind: ValueKind = ValueKind.TEXT


@dataclass(frozen=True, slots=True)
class Rule:
    """Fields whose change is of one type."""

    #: `time_change`, `venue_change`, …
    type: str
    fields: tuple[Field, ...]
    priority: Priority
    #: whether it deserves a notification
    significant: bool = True
    #: looked at only when one of the fields differs; None = always applies
    when: Condition | None = None


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one kind of object, most important first.

    The first rule that applies claims a field, so a special case (`cancellation`) stands above the general one
    (`status_change`) and neither has to know the other. Raises ValueError when a type is declared twice or a rule
    has no fields: both are mistakes of the author, found at import.
    """

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        types = [rule.type for rule in self.rules]
        if len(set(types)) != len(types):
            raise ValueError(f"a change type is declared twice: {', '.join(types)}")
        for rule in self.rules:
            if not rule.fields:
                raise ValueError(f"rule {rule.type} watches no field")


def becomes(field: str, value: str) -> Condition:
    """Return the condition that a field takes this value and did not have it before."""

    def holds(old: Version, new: Version) -> bool:
        return new.get(field) == value and old.get(field) != value

    return holds
