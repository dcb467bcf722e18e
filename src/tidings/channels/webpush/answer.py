"""What a push service answered, or why there is no answer: values between transport and policy."""

from collections.abc import Mapping

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """An HTTP response, as much of it as the policy looks at."""

    status: int
    #: lower-case names
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    #: the first 4 KB, only read when the status is not 2xx
    body: str = ""


class NoAnswer(msgspec.Struct, frozen=True):
    """The network failed or the service took too long; the message may or may not have arrived."""

    why: str
