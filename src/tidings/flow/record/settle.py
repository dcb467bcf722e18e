"""What an outcome means for the delivery, given how long the notification lives. Pure."""

from dataclasses import replace

from tidings.model.delivery import Attempted
from tidings.model.outcome import Deferred, Refused


def settled(attempted: Attempted) -> Attempted:
    """Turn a retry that would come after the notification has expired into the end of the delivery."""
    match attempted.outcome:
        case Deferred(until=until, why=why, status=status) if until >= attempted.expires_at:
            late = Refused(f"expired before the next try; last answer: {why}", status, expired=True)
            return replace(attempted, outcome=late)
        case _:
            return attempted
