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


#: reason of a skip → the rule that has it. A reason that is not listed has the name of its rule
_RULES: Mapping[SkipReason, str] = {
    SkipReason.CANCELLED: "cancellation",
    SkipReason.SUPERSEDED: "supersession",
    SkipReason.STEP_CANCELLED: "step_success",
    SkipReason.EXPIRED: "expiry",
    SkipReason.USER_ERASED: "erasure",
    SkipReason.LEFT_AUDIENCE: "audience_membership",
    SkipReason.ALREADY_INFORMED: "repetition",
    SkipReason.CHANNEL_NOT_SET_UP: "channel_setup",
    SkipReason.PREFERENCE_OFF: "consent",
    SkipReason.NOT_OPTED_IN: "consent",
    SkipReason.NO_DEVICE: "contact_point",
    SkipReason.NO_CONTACT_POINT: "contact_point",
    SkipReason.SUPPRESSED: "suppression",
    SkipReason.NOT_MOST_ENGAGED: "channel_selection",
    SkipReason.RATE_LIMITED: "rate_limit",
    SkipReason.RENDER_FAILED: "rendering",
}


def find_rule(reason: SkipReason, detail: Mapping[str, object]) -> str:
    """Return the rule that skips for a reason. Rules of packs are recorded in the detail."""
    name = _RULES.get(reason, reason.value)
    return str(detail.get("rule", name)) if reason is SkipReason.PACK_RULE else name
