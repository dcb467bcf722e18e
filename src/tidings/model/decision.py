"""What a rule of the plan decides on a candidate: a recipient, or a claimed delivery, on one channel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tidings.model.delivery import SkipReason


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing is sent, for this reason."""

    reason: SkipReason
    #: the inputs of the decision, JSON values only
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Defer:
    """Nothing is sent before `until`. At that time all rules are asked again."""

    until: datetime
    #: the rule that holds the message, e.g. `quiet_hours`
    rule: str
    #: the inputs of the decision, JSON values only
    detail: Mapping[str, object] = field(default_factory=dict)
