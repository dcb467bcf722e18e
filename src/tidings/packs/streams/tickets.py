"""Tickets: single-use credentials of WebSockets, so that the user token does not appear in a URL."""

import hashlib
import secrets
from datetime import datetime, timedelta

from tidings.packs.streams import repository
from tidings.ports.clock import Clock
from tidings.ports.store import Store

#: a ticket is used at once; the margin is for slow networks
TICKET_LIFETIME = timedelta(minutes=1)


class TicketService:
    """Issues and redeems tickets. They are stored by their digest only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, user_id: str, authorized_until: datetime) -> tuple[str, datetime]:
        """Return a new ticket of a user and its expiry. authorized_until: the end of the user's token."""
        ticket = secrets.token_urlsafe(32)
        expires_at = min(self._clock.now() + TICKET_LIFETIME, authorized_until)
        async with self._store.transaction() as tx:
            await repository.add_ticket(
                tx, digest_ticket(ticket), user_id, authorized_until=authorized_until, expires_at=expires_at
            )
        return ticket, expires_at

    async def redeem(self, ticket: str) -> tuple[str, datetime] | None:
        """Return the user of a ticket and the end of the authorisation, None if it was used, or has expired.

        Of any number of concurrent calls one succeeds.
        """
        async with self._store.transaction() as tx:
            return await repository.redeem_ticket(tx, digest_ticket(ticket), self._clock.now())


def digest_ticket(ticket: str) -> str:
    """Return the SHA-256 of a ticket, hex. An unsalted hash suffices, because a ticket has 256 random bits."""
    return hashlib.sha256(ticket.encode()).hexdigest()
