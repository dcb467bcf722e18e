"""What differs between two versions of a watched object (MISSION M1)."""

from dataclasses import dataclass
from enum import StrEnum

from tidings.model.priority import Priority


class ValueKind(StrEnum):
    """How a changed value is shown to people."""

    TEXT = "text"
    INSTANT = "instant"  # an ISO 8601 instant, shown in the reader's time zone and locale
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field, before and after. Values are JSON scalars, instants as ISO 8601 with offset."""

    field: str
    kind: ValueKind
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """All that changed in one update, led by its most important type."""

    #: `time_change`, `venue_change`, `cancellation`, `status_change`, `other`
    type: str
    #: every type present, most important first
    types: tuple[str, ...]
    fields: tuple[FieldChange, ...]
    priority: Priority
    #: whether it deserves a notification
    significant: bool
