"""Each trigger ends in exactly one place, whatever the order of triggers, closings, cancellations and failures."""

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.conftest import Process

from tidings.errors import BackendError, Conflict
from tidings.model.audience import users
from tidings.model.digest import DigestItem, DigestItemState, DigestState
from tidings.model.ids import new_id
from tidings.model.notification import Notification
from tidings.model.plan_options import DigestOptions
from tidings.testing.contracts.samples import run_concurrently

MODES = (
    DigestOptions(window_seconds=60),
    DigestOptions("title", 60, sliding=True, max_seconds=120),
    DigestOptions(window_seconds=60, first_at_once=True, channels=("webpush",)),
    DigestOptions("body", 600, max_items=3),
)
ACTIONS = st.one_of(
    st.tuples(st.just("trigger"), st.integers(0, len(MODES) - 1), st.integers(1, 3)),
    st.tuples(st.sampled_from(["close", "close twice", "fail", "cancel", "wait"])),
)


@given(st.lists(ACTIONS, min_size=1, max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])
async def test_c3_each_trigger_ends_in_exactly_one_place(process: Process, actions: list[tuple[Any, ...]]) -> None:
    # the database is that of the examples before
    user = f"user-{new_id(process.clock.now())}"
    await process.add_users(user)
    triggers: list[Notification] = []
    for action in actions:
        await perform(process, user, action, triggers)
    process.clock.advance(timedelta(hours=1))
    await process.pipeline.close_due_digests()
    await verify(process, user, triggers)


async def perform(process: Process, user: str, action: tuple[Any, ...], triggers: list[Notification]) -> None:
    match action:
        case ("trigger", mode, count):
            # in one transaction, in the same millisecond
            request = replace(process.build_request(users(user)), digest=MODES[mode])
            async with process.store.transaction() as tx:
                accepted = await process.pipeline.accept_many(tx, [request] * count)
            triggers += [one for one in accepted if isinstance(one, Notification)]
        case ("close",):
            await process.pipeline.close_due_digests()
        case ("close twice",):
            await run_concurrently(
                process.store, process.pipeline.close_due_digests(), process.pipeline.close_due_digests()
            )
        case ("fail",):
            await fail_to_close(process)
        case ("cancel",) if triggers:
            with suppress(Conflict):  # it was sent, or is part of a digest
                await process.pipeline.cancel(triggers[-1].id)
        case _:
            process.clock.advance(timedelta(seconds=40))


async def fail_to_close(process: Process) -> None:
    """Close in a transaction that fails at its end."""

    async def fail(*_arguments: object) -> None:
        raise BackendError("the process was killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.store.digests, "close", fail)
        try:
            await process.pipeline.close_due_digests()
        except BackendError:
            return


async def verify(process: Process, user: str, triggers: list[Notification]) -> None:
    async with process.store.read_snapshot() as tx:
        digests = await process.store.digests.list_page(tx, before=None, limit=1000, user_id=user)
        items = await process.store.digests.list_items(tx, [one.id for one in digests])
        deliveries = await process.store.personal_data.list_deliveries(tx, user, after=None, limit=1000)
        skips = await process.store.personal_data.list_skips(tx, user, after=None, limit=1000)
        made_ids = {one.notification_id for one in digests if one.notification_id}
        made = await process.store.notifications.get_many(tx, made_ids)
    assert {one.state for one in digests} <= {DigestState.CLOSED, DigestState.EMPTY}
    places = Counter[str](item.notification_id for item in items)
    places.update(one.notification_id for one in deliveries if one.notification_id not in made_ids)
    places.update(skip.notification_id for skip in skips)
    assert places == Counter(one.id for one in triggers)
    assert all(item.reason is not None for item in items if item.state is DigestItemState.LEFT_OUT)
    digested: dict[str, list[DigestItem]] = {}
    for item in items:
        if item.state is DigestItemState.DIGESTED:
            digested.setdefault(item.digest_id, []).append(item)
    assert {one.id: one.variables["count"] for one in made} == {
        one.notification_id: len(digested[one.id]) for one in digests if one.notification_id
    }
