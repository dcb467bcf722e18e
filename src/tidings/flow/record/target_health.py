"""Derives from outcomes what they say about each target: reached, or refused for an unknown reason. Pure."""

import re
from collections.abc import Sequence

from tidings.model.delivery import AttemptResult
from tidings.model.outcome import Accepted, PermanentFailure
from tidings.model.subscription import TargetChange

#: maximum length of a stored reason, in characters
MAX_REASON_LENGTH = 200
#: words with digits: ids, times and counts, which differ between responses for one reason
_VARIABLE_WORD = re.compile(r"\S*\d\S*")


def derive_target_changes(results: Sequence[AttemptResult]) -> Sequence[TargetChange]:
    """Return the changes of targets, sorted by their id. Outcomes that say nothing about a target cause none."""
    changes: dict[str, TargetChange] = {}
    for result in sorted(results, key=lambda result: result.finished_at):
        target_id = result.target_id
        if target_id is None:
            continue
        match result.outcome:
            case Accepted():
                changes[target_id] = TargetChange(target_id, is_reached=True, continues=False)
            case PermanentFailure(is_target_suspect=True) as refusal:
                before = changes.get(target_id) or TargetChange(target_id, is_reached=False)
                reason = normalize_reason(refusal)
                is_same = before.reason in (None, reason)
                changes[target_id] = TargetChange(
                    target_id,
                    is_reached=before.is_reached,
                    refusals=before.refusals + 1 if is_same else 1,
                    reason=reason,
                    continues=before.continues and is_same,
                )
    return [changes[target_id] for target_id in sorted(changes)]


def normalize_reason(refusal: PermanentFailure) -> str:
    """Return the reason of a refusal without parts that differ each time."""
    text = " ".join(_VARIABLE_WORD.sub("#", refusal.why).split())
    return f"{refusal.status}: {text}"[:MAX_REASON_LENGTH]
