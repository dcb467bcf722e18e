"""What an outcome means for the delivery, given its tries so far and how long the notification lives. Pure."""

from msgspec import structs

from tidings.model.delivery import Attempted
from tidings.model.outcome import Deferred, Refused

#: tries that a delivery gets, whatever the channel: the first, and after 2, 4 and 8 seconds (MISSION M27)
MAX_ATTEMPTS = 4


def settled(attempted: Attempted) -> Attempted:
    """Turn a retry into the end of the delivery when its tries are spent, or when it would come after the expiry."""
    match attempted.outcome:
        case Deferred(why=why, status=status, spends_attempt=True) if attempted.number >= MAX_ATTEMPTS:
            return structs.replace(
                attempted, outcome=Refused(f"gave up after {attempted.number} attempts: {why}", status)
            )
        case Deferred(until=until, why=why, status=status) if until >= attempted.expires_at:
            late = Refused(f"expired before the next try; last answer: {why}", status, expired=True)
            return structs.replace(attempted, outcome=late)
        case _:
            return attempted
