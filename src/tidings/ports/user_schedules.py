"""The part of the store with the schedules of users."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from tidings.model.user_schedule import UserSchedule
from tidings.ports.transaction import Transaction


class UserSchedules(Protocol):
    """Quiet hours and digest times of users."""

    async def get(self, tx: Transaction, user_id: str) -> UserSchedule:
        """Return the schedule of a user; one in which nothing is set for a user without one."""
        ...

    async def set(self, tx: Transaction, user_id: str, schedule: UserSchedule, now: datetime) -> None:
        """Store the schedule of a user who exists, and decide again on what is held for them."""
        ...

    async def list_timezones(self, tx: Transaction) -> Sequence[str]:
        """Return the time zones that users have, each once: of the schedule, or else of the profile, as stored.

        An empty text stands for users who have set none. Some of the names may be of no user any more.
        """
        ...
