"""The queries on the lists of users of one subject use their indexes at a million rows, on each database."""

from typing import TYPE_CHECKING

import pytest
from tests.adapters.query_plans.cases import NOTIFICATION, USER_ID, Work

from tidings.model.subject import Supersession

if TYPE_CHECKING:
    from tests.adapters.query_plans.conftest import FilledStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORK: dict[str, Work] = {
    "supersede": lambda store, tx: store.subjects.supersede(
        tx, [Supersession("event:1", 2, NOTIFICATION, frozenset({USER_ID}), includes_below=True)]
    ),
    "find newer": lambda store, tx: store.subjects.find_newer(tx, "event:1", version=1, user_ids=[USER_ID]),
    "find newer for a user": lambda store, tx: store.subjects.find_newer_for_user(tx, NOTIFICATION, USER_ID),
}


async def verify(filled: "FilledStore", work: Work) -> None:
    steps = [step for statement in await filled.explain_work(work) for step in statement.steps]
    assert any("ix_notifications_subject " in step for step in steps), steps
    assert not [step for step in steps if step.startswith("SCAN n")], steps


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
async def test_the_index_of_subjects_finds_the_rows_on_sqlite(million: "FilledStore", work: Work) -> None:
    await verify(million, work)


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
async def test_the_index_of_subjects_finds_the_rows_on_postgresql(million_in_weeks: "FilledStore", work: Work) -> None:
    await verify(million_in_weeks, work)
