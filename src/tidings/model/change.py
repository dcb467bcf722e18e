"""The difference between two versions of a watched object."""

from dataclasses import dataclass
from enum import StrEnum

from tidings.model.priority import Priority


class ValueKind(StrEnum):
    """How a changed value is formatted for people."""

    TEXT = "text"
    INSTANT = "instant"  # an ISO 8601 instant, formatted in the recipient's time zone and locale
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """The old and the new value of one field. Instants are in ISO 8601 with offset."""

    field: str
    kind: ValueKind
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """All changes of one update, named after the most important one."""

    #: `time_change`, `venue_change`, `cancellation`, `status_change`, `other`
    type: str
    #: all types that occur, the most important first
    types: tuple[str, ...]
    fields: tuple[FieldChange, ...]
    priority: Priority
    #: whether it causes a notification
    is_significant: bool
