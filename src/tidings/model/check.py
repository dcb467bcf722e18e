"""The result of one check of `tidings doctor`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check, with the fix where one is needed."""

    #: a problem sets the exit code 1; skipped: the part is not configured
    level: Literal["ok", "skipped", "warning", "problem"]
    #: what was checked: a setting, or a part of the installation
    check: str
    message: str
