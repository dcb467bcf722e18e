"""Triggers: domain events of one type cause a notification. Declared by packs, and in the file of the operator."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidings.model.priority import Priority


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """Something that happened in the host product, as CloudEvents 1.0 describes it."""

    #: with `source` unique: a repeated event has the same
    id: str
    #: where it happened, a URI reference
    source: str
    type: str
    #: what it is about within `source`
    subject: str | None = None
    #: JSON
    data: object = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """The notification that domain events of a type cause.

    An expression is minijinja without braces. It sees `id`, `source`, `type`, `subject` and `data` of the event.
    """

    event_type: str
    template: str
    #: as in `POST /api/notifications`; a text beginning with `=` is an expression: `{"kind": "users", "userIds":
    #: ["=data.userId"]}`
    audience: Mapping[str, object]
    #: variable → expression
    variables: Mapping[str, str] = field(default_factory=dict)
    #: expression; the event causes nothing if it is false. None = always true
    condition: str | None = None
    #: expression of the notification's subject, None = that of the template
    subject: str | None = None
    #: orders the notifications on the subject, None = the next number
    subject_version: int | None = None
    priority: Priority | None = None


#: marks a text of an audience as an expression
EXPRESSION_MARK = "="
