"""Why the service does not take a message: a value, turned into the JSON body of a 4xx answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused message: HTTP status, a stable reason code and a sentence for people."""

    status: int
    reason: str
    message: str
