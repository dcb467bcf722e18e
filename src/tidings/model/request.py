"""A request to notify an audience, before validation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from tidings.model.audience import Audience
from tidings.model.plan_options import ChannelSelection, DigestOptions, Step, ThrottleOptions
from tidings.model.priority import Priority
from tidings.model.subject import DefaultVersion, SubjectRequest

#: maximum size of a notification's variables as JSON
MAX_VARIABLES_BYTES = 16_384
#: maximum time between acceptance and `send_at`
MAX_SCHEDULE_AHEAD = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class NotifyRequest:
    """A request to notify an audience. None means the template's default, unless stated otherwise."""

    template_code: str
    audience: Audience
    variables: Mapping[str, object] = field(default_factory=dict)
    priority: Priority | None = None
    #: nothing is sent before this; None = now
    send_at: datetime | None = None
    #: nothing is sent after this; None = 28 days after `send_at`
    expires_at: datetime | None = None
    #: only these channels; empty = every channel the user has
    channels: tuple[str, ...] = ()
    action_url: str | None = None
    action_text: str | None = None
    #: the cause; shown to people and in explain
    source: str | None = None
    #: what it is about, None = the subject of the template
    subject: SubjectRequest | None = None
    #: of a subject that names no version; None = one more than the newest notification on the subject
    default_version: DefaultVersion | None = None
    #: empty = all channels at once
    steps: tuple[Step, ...] | None = None
    #: False = no digest
    digest: DigestOptions | Literal[False] | None = None
    #: False = no throttle
    throttle: ThrottleOptions | Literal[False] | None = None
    channel_selection: ChannelSelection | None = None
