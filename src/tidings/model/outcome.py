"""What a channel returns for one send. Expected results are values: callers `match` on them, nothing is raised."""

from datetime import datetime
from typing import Literal

import msgspec


class Delivered(msgspec.Struct, frozen=True):
    """The provider took the message."""

    why: str = "accepted by the provider"
    #: the provider's own status code, if it has one
    status: int | None = None


class Deferred(msgspec.Struct, frozen=True):
    """Not now: try again at `until`."""

    until: datetime
    why: str
    status: int | None = None
    #: False when the provider asked to wait (`Retry-After`): waiting as told is not a failed attempt (MISSION M9)
    spends_attempt: bool = True


class Refused(msgspec.Struct, frozen=True):
    """This message will never be taken. The target stays."""

    why: str
    status: int | None = None
    #: True when the fault is on our side (keys, clock, header) and an operator must look
    alert: bool = False
    #: True when it was not refused by anybody but came too late
    expired: bool = False


class Gone(msgspec.Struct, frozen=True):
    """The target is dead: `delete` it, or stop using it and ask the client to subscribe again (`rebind`)."""

    why: str
    status: int | None = None
    remedy: Literal["delete", "rebind"] = "delete"


Outcome = Delivered | Deferred | Refused | Gone
