"""What a push service answered, or why there is no answer: values between transport and policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response, as much of it as the policy looks at."""

    status: int
    #: lower-case names
    headers: Mapping[str, str] = field(default_factory=dict)
    #: the first 4 KB, only read when the status is not 2xx
    body: str = ""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The network failed or the service took too long; the message may or may not have arrived."""

    why: str
