"""What a case of the query plans is, and the cases of later steps, receipts and engagement."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tests.support.bulk_rows import EACH, NOW, row_id

from tidings.model.waiting_step import StepEnd
from tidings.ports.store import Transaction
from tidings.stores.store import SqlStore

NOTIFICATION = row_id(0, 10_000)
DELIVERY = row_id(1, 10_000 * EACH + 4)
USER_ID = "user-050004"

Work = Callable[[SqlStore, Transaction], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """A query, and the index that must find its first rows."""

    name: str
    work: Work
    #: part of the step of the plan, or `one|other` if either will do
    index: str
    #: tables whose index may be scanned from its start, with a limit or because the partial index holds only the
    #: requested rows
    in_order: tuple[str, ...] = ()
    #: number of temporary B-trees in SQLite, over rows already bounded by a limit or a key
    sorts: int = 0
    #: the index on PostgreSQL if it differs, or `one|other` if either will do
    postgresql: str | None = None

    @property
    def indexes_of_postgresql(self) -> Sequence[str]:
        name = self.postgresql or self.index.partition(" (")[0].rpartition(" ")[2]
        return re.sub(r"^sqlite_autoindex_(\w+)_1$", r"\1_pkey", name).split("|")


STEPS = [
    Case(
        "any step due",
        lambda store, tx: store.steps.has_due(tx, NOW),
        "waiting_steps USING INDEX ix_waiting_steps_due|waiting_steps USING COVERING INDEX ix_waiting_steps_due",
        postgresql="ix_waiting_steps_due",
    ),
    Case(
        "steps that are due",
        lambda store, tx: store.steps.lock_due(tx, NOW, 500),
        "ix_waiting_steps_due (due_at>? AND due_at<?)|ix_waiting_steps_due (due_at<?)",
        sorts=1,
        postgresql="ix_waiting_steps_due",
    ),
    Case(
        "steps that were seen",
        lambda store, tx: store.steps.cancel(tx, [(NOTIFICATION, USER_ID)], StepEnd.SEEN, NOW),
        "ix_waiting_steps_user (user_id=? AND notification_id=?)|PRIMARY KEY (notification_id=? AND user_id=?)",
        sorts=1,
        postgresql="waiting_steps_pkey|ix_waiting_steps_user",
    ),
    Case(
        "steps after what was handed over",
        lambda store, tx: store.steps.record_outcomes(
            tx, [(NOTIFICATION, USER_ID)], NOW, is_delivered_when_sent=lambda *_: False
        ),
        "ix_waiting_steps_user (user_id=? AND notification_id=?)|PRIMARY KEY (notification_id=? AND user_id=?)",
        sorts=2,
        postgresql="waiting_steps_pkey|ix_waiting_steps_user",
    ),
    Case(
        "steps that wait for an event",
        lambda store, tx: store.steps.cancel_by_event(tx, "paid", NOW, subject="order:4", user_id=None),
        "ix_waiting_steps_event (event=? AND event_key=?)",
        sorts=3,
        postgresql="ix_waiting_steps_event",
    ),
    Case(
        "steps of a user",
        lambda store, tx: store.steps.list_by_user(tx, USER_ID, after=None, limit=500),
        "ix_waiting_steps_user (user_id=?)",
        postgresql="ix_waiting_steps_user",
    ),
]

ENGAGEMENT = [
    Case(
        "the recipient of a receipt",
        lambda store, tx: store.deliveries.find_recipient(tx, NOTIFICATION, DELIVERY),
        "sqlite_autoindex_deliveries_1 (id=?)|ix_deliveries_notification (notification_id=? AND id=?)",
        postgresql="deliveries_pkey",
    ),
    Case(
        "what the users of a page did",
        lambda store, tx: store.audiences.load_engagement(tx, [USER_ID, "user-000001"], NOW - timedelta(days=30)),
        "ix_receipts_user (user_id=?",
        sorts=3,
        postgresql="ix_receipts_user",
    ),
]
