"""What the database says when all work has ended, and the rules that hold then whatever happened before."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, select
from tests.contract.machine.post import Answer, Post

from tidings.flow.plan.limit import WINDOW
from tidings.flow.record.settle import MAX_ATTEMPTS
from tidings.model.delivery import FINAL_STATES
from tidings.ports.store import MAX_CRASHES, Transaction
from tidings.stores.connection import of
from tidings.stores.schema import attempts, deliveries, notifications, skips

Rows = Sequence[Row[*tuple[Any, ...]]]
#: instants of limits are rounded to milliseconds, away from each other
ROUNDED = timedelta(milliseconds=2)


@dataclass(frozen=True)
class Asked:
    """What somebody asked for, as far as it can be told whether it was accepted."""

    users: Collection[str]
    #: whether it counts for the limit of its users
    counts: bool
    #: how many notifications of it there must be
    times: int = 1


@dataclass(frozen=True)
class Books:
    """All rows of the ledger."""

    notifications: Rows
    deliveries: Rows
    skips: Rows
    tries: Rows

    def check(self, asked: Mapping[str, Asked], post: Post, replays: Counter[str]) -> None:
        """Assert what must hold for each notification and each delivery."""
        found = Counter(one.source for one in self.notifications)
        assert found == {source: one.times for source, one in asked.items() if one.times}, "lost, or accepted twice"
        for one in self.notifications:
            self._check_notification(one, asked[one.source].users, one.id in post.cancelled)
        for one in self.deliveries:
            self._check_delivery(one, post, replays[one.id])
        assert {one.message.delivery_id for one in post.sent} <= {one.id for one in self.deliveries}

    def check_limits(self, asked: Mapping[str, Asked], limit: int, set_back: timedelta) -> None:
        """Assert that nobody got more than the limit in any window, and that nobody was held back below it.

        set_back: by how much the clock was set back in all; without that the limit is exact.
        """
        counting = {one.id for one in self.notifications if asked[one.source].counts}
        counted: defaultdict[str, dict[str, datetime]] = defaultdict(dict)
        for one in self.deliveries:
            if one.notification_id in counting:
                counted[one.user_id][one.notification_id] = one.created_at
        for user, by_notification in counted.items():
            times = sorted(by_notification.values())
            for last in times:
                got = sum(last - WINDOW + set_back < one <= last for one in times)
                assert got <= limit, f"{user} got {got} in the hour before {last}"
        for one in self.skips:
            if one.reason == "rate_limited":
                begin, end = one.created_at - WINDOW - set_back - ROUNDED, one.created_at + set_back
                got = sum(begin < time <= end for time in counted[one.user_id].values())
                assert got >= limit, f"{one.user_id} was held back after {got}"

    def _check_notification(self, one: Row[*tuple[Any, ...]], users: Collection[str], cancelled: bool) -> None:
        rows = [row for row in self.deliveries if row.notification_id == one.id]
        silent = [row for row in self.skips if row.notification_id == one.id]
        assert one.state in ("fanned_out", "cancelled")
        assert one.state == "cancelled" or not cancelled, "a confirmed cancellation is gone"
        assert (one.deliveries, one.skipped) == (len(rows), len(silent)), "its counts are not those of its rows"
        got, skipped = {row.user_id for row in rows}, {row.user_id for row in silent}
        assert not got & skipped, "told, and recorded as not told"
        assert one.recipients == len(got | skipped)
        assert (got | skipped) <= set(users)
        if one.state == "fanned_out":
            assert got | skipped == set(users), "somebody was left out"
        targets = Counter((row.user_id, row.channel, row.target_id) for row in rows)
        assert set(targets.values()) <= {1}, "more than one row for a device"
        if one.state != "cancelled":
            assert "cancelled" not in {row.state for row in rows}

    def _check_delivery(self, one: Row[*tuple[Any, ...]], post: Post, replayed: int) -> None:
        assert one.state in FINAL_STATES
        assert (one.lease_token, one.batch_id) == (None, None)
        answers = Counter(sent.answer for sent in post.sent if sent.message.delivery_id == one.id)
        lost = post.lost[one.id]
        tries = sum(row.delivery_id == one.id for row in self.tries)
        assert one.attempts <= MAX_ATTEMPTS
        spent = answers.total() - answers[Answer.WAIT]
        assert spent <= MAX_ATTEMPTS * (1 + replayed) + lost, f"tried {spent} times; {lost} of them were lost"
        assert answers[Answer.DELIVERED] <= 1 + lost, "delivered again for no reason"
        assert answers.total() <= tries + lost, "a try is not in the ledger"
        assert one.crashes <= MAX_CRASHES
        if not lost:
            told = {
                "delivered": Answer.DELIVERED in answers,
                "gone": bool(answers[Answer.GONE] + answers[Answer.REBIND]),
            }
            for state, happened in told.items():
                assert (one.state == state) == happened, f"{one.state}, but {dict(answers)}"
        elif one.state == "delivered":
            assert answers[Answer.DELIVERED], "nobody took it"


async def read_books(tx: Transaction) -> Books:
    """Read the whole ledger."""
    tables = (notifications, deliveries, skips, attempts)
    return Books(*[(await of(tx).execute(select(table))).all() for table in tables])
