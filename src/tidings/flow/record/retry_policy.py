"""The retry policy: turns a retry into the next attempt or into a final state. Pure."""

from collections.abc import Mapping

from msgspec import structs

from tidings.model.delivery import AttemptResult
from tidings.model.outcome import MAX_ATTEMPTS, InvalidTarget, PermanentFailure, RetryLater


def retry_renewed_target(result: AttemptResult, versions: Mapping[str, int]) -> AttemptResult:
    """Retry if the target that ended was registered again during the send: the answer is about the old one.

    versions: id → current version of the targets that exist.
    """
    match result.outcome:
        case InvalidTarget(why=why, status=status) if (
            result.target_id is not None
            and result.target_version is not None
            and versions.get(result.target_id, result.target_version) != result.target_version
        ):
            retry = RetryLater(result.finished_at, f"it was registered anew during the send; before: {why}", status)
            return structs.replace(result, outcome=retry)
        case _:
            return result


def apply_retry_policy(result: AttemptResult, max_attempts: int = MAX_ATTEMPTS) -> AttemptResult:
    """Turn a retry into a permanent failure if no attempts are left, or if the notification expires before it.

    max_attempts: attempts per delivery on the channel.
    """
    match result.outcome:
        case RetryLater(why=why, status=status, counts_as_attempt=True, is_soft_bounce=is_soft) if (
            result.number >= max_attempts
        ):
            gave_up = f"gave up after {result.number} attempts: {why}"
            return structs.replace(result, outcome=PermanentFailure(gave_up, status, is_soft_bounce=is_soft))
        case RetryLater(until=until, why=why, status=status, is_soft_bounce=is_soft) if until >= result.expires_at:
            why = f"expired before the next attempt; last answer: {why}"
            expired = PermanentFailure(why, status, is_expired=True, is_soft_bounce=is_soft)
            return structs.replace(result, outcome=expired)
        case _:
            return result
