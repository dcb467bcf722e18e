"""What somebody asks Tidings to do, before it is validated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tidings.model.audience import Audience
from tidings.model.priority import Priority

#: most bytes that a notification's variables may take as JSON
MAX_VARIABLES_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class NotifyRequest:
    """A request to notify an audience. None means: as the template says."""

    template_code: str
    audience: Audience
    variables: Mapping[str, object] = field(default_factory=dict)
    priority: Priority | None = None
    #: not before; None = now
    send_at: datetime | None = None
    #: nothing is sent after this; None = 28 days after `send_at`
    expires_at: datetime | None = None
    #: only these channels; empty = every channel the user has
    channels: tuple[str, ...] = ()
    action_url: str | None = None
    action_text: str | None = None
    #: what caused it, for people and for explain
    source: str | None = None
