"""Outcomes: the values that a channel returns for an attempt. Expected failures are values too, never exceptions."""

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from tidings.model.suppression import SuppressionReason

#: attempts per delivery on every channel; a retry with `counts_as_attempt=False` is not counted
MAX_ATTEMPTS = 4


class Accepted(msgspec.Struct, frozen=True):
    """The provider accepted the message."""

    #: the name of this outcome in the stored history and in metrics
    label: ClassVar[str] = "delivered"

    why: str = "accepted by the provider"
    #: the provider's own status code, if it has one
    status: int | None = None
    #: the account that carried the message, if the channel has several
    provider: str | None = None
    #: the provider's id of the message, by which it reports later
    message_id: str | None = None
    #: messages that the provider made of it, each with an id; None = one
    parts: int | None = None


class RetryLater(msgspec.Struct, frozen=True):
    """A temporary failure: the delivery is retried at `until`."""

    label: ClassVar[str] = "deferred"

    until: datetime
    why: str
    status: int | None = None
    #: False when the provider requested the wait (`Retry-After`), or when nothing was sent
    counts_as_attempt: bool = True
    #: True when the mailbox of the recipient refused the message for a cause that passes
    is_soft_bounce: bool = False


class PermanentFailure(msgspec.Struct, frozen=True):
    """This message can never be delivered. The target is kept."""

    label: ClassVar[str] = "refused"

    why: str
    status: int | None = None
    #: True when the cause is on this server (keys, clock, headers) and an operator must act
    operator_alert: bool = False
    #: True when no provider refused it, but its notification expired
    is_expired: bool = False
    #: True when the provider's reason is unknown and may lie in the target, which is suspended if this repeats
    is_target_suspect: bool = False
    #: True when the mailbox of the recipient refused it for a cause that passes, such as a full one; some of them in a
    #: row suppress the address for some days
    is_soft_bounce: bool = False


class InvalidTarget(msgspec.Struct, frozen=True):
    """The target is invalid: `delete` it, or stop using it until the browser subscribes again (`rebind`)."""

    label: ClassVar[str] = "gone"

    why: str
    status: int | None = None
    #: `suppress`: nothing more is sent to the address, whoever has it, until that is lifted. `disable`: until its owner
    #: enables it
    action: Literal["delete", "rebind", "suppress", "disable"] = "delete"
    #: of `suppress`: why, and the sender that the user opted out of, empty = every sender of the channel
    reason: SuppressionReason = SuppressionReason.PROVIDER_OPT_OUT
    sender: str = ""


class Uncertain(msgspec.Struct, frozen=True):
    """The provider may have taken the message before it fell silent. It is not sent again."""

    label: ClassVar[str] = "uncertain"

    why: str
    status: int | None = None
    provider: str | None = None


Outcome = Accepted | RetryLater | PermanentFailure | InvalidTarget | Uncertain
