"""The result of one check of `tidings doctor`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and the fix where one is needed."""

    level: Literal["ok", "warning", "problem"]
    check: str
    message: str
