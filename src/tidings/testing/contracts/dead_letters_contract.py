"""Suite for `ports.operations.DeadLetters`: listing, counting, replaying and discarding dead letters."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tidings.model.ids import new_id
from tidings.model.outcome import PermanentFailure, RetryLater
from tidings.model.task import TaskKind
from tidings.ports.operations import DeadLetter, DeadLetterFilter, ErrorGroup
from tidings.ports.store import MAX_WORKER_CRASHES, Store
from tidings.testing.contracts.samples import (
    LEASE,
    NOW,
    PlannedNotification,
    count_by_state,
    create_planned_notification,
    make_attempt_result,
)

MATCH_ALL = DeadLetterFilter()
LATER = NOW + timedelta(minutes=5)
TOO_LARGE = PermanentFailure("the push service finds the message too large", 413)
FORBIDDEN = PermanentFailure("Apple answered 403: BadJwtToken", 403, operator_alert=True)


async def create_dead_letters(
    store: Store, *user_ids: str, outcome: PermanentFailure = FORBIDDEN, now: datetime = LATER
) -> PlannedNotification:
    """Plan a notification and record a permanent failure for each of its deliveries."""
    scene = await create_planned_notification(store, *user_ids)
    claimed = await scene.claim(store)
    async with store.transaction() as tx:
        await store.deliveries.record(tx, [make_attempt_result(due, outcome) for due in claimed], now)
    return scene


async def list_dead_letters(store: Store, which: DeadLetterFilter = MATCH_ALL) -> Sequence[DeadLetter]:
    """Return the newest hundred dead letters."""
    async with store.read_snapshot() as tx:
        return await store.dead_letters.page(tx, which, before=None, limit=100)


async def replay(
    store: Store, which: DeadLetterFilter = MATCH_ALL, *, due_at: datetime = LATER, limit: int = 100
) -> Sequence[str]:
    """Replay dead letters in a separate transaction."""
    async with store.transaction() as tx:
        return await store.dead_letters.replay(tx, which, due_at=due_at, limit=limit, now=LATER)


async def discard(store: Store, which: DeadLetterFilter = MATCH_ALL, *, limit: int = 100) -> int:
    """Discard dead letters in a separate transaction."""
    async with store.transaction() as tx:
        return await store.dead_letters.discard(tx, which, limit=limit, now=LATER)


class DeadLettersContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_dead_letter_says_what_was_given_up_and_why(self, store: Store) -> None:
        scene = await create_dead_letters(store, "ana")
        assert await list_dead_letters(store) == [
            DeadLetter(
                id=scene.planned[0].id,
                notification_id=scene.notification.id,
                template_code="NEWS",
                category="NEWS",
                user_id="ana",
                channel="webpush",
                lane=scene.planned[0].lane,
                error=FORBIDDEN.why,
                status=403,
                attempts=1,
                crashes=0,
                died_at=LATER,
                expires_at=scene.notification.expires_at,
            )
        ]

    async def test_the_status_is_that_of_the_last_try(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [due] = await scene.claim(store)
        async with store.transaction() as tx:
            await store.deliveries.record(tx, [make_attempt_result(due, RetryLater(LATER, "busy", 503))], NOW)
            [task] = await store.deliveries.batch_due(tx, LATER, 10)
            [due] = await store.deliveries.claim(
                tx, [task.ref], token=new_id(LATER), now=LATER, lease_until=LATER + LEASE
            )
            await store.deliveries.record(tx, [make_attempt_result(due, PermanentFailure("no", None), at=LATER)], LATER)
        assert [(one.status, one.attempts) for one in await list_dead_letters(store)] == [(None, 2)]

    async def test_they_are_counted_up_to_so_many(self, store: Store) -> None:
        await create_planned_notification(store, "ana")
        await create_dead_letters(store, "ana", "ben", "cleo")
        async with store.read_snapshot() as tx:
            assert [await store.dead_letters.count(tx, limit=most) for most in (100, 3, 2)] == [3, 3, 2]

    async def test_what_an_answer_says_may_be_left_out_of_its_error(self, store: Store) -> None:
        await create_dead_letters(store, "ana")
        await create_dead_letters(store, "ben", outcome=TOO_LARGE)

        async def found(error: str) -> list[str]:
            return [one.user_id for one in await list_dead_letters(store, DeadLetterFilter(error=error))]

        assert await found("Apple answered 403") == ["ana"]
        assert await found(TOO_LARGE.why) == ["ben"]
        for other in ("Apple answered 40", "apple answered 403", "Apple answered 403:", "Apple answered %", ""):
            assert await found(other) == [], other

    async def test_what_is_under_way_delivered_or_expired_is_none(self, store: Store) -> None:
        await create_planned_notification(store, "ana")
        await create_dead_letters(store, "ben", outcome=PermanentFailure("too late", None, is_expired=True))
        assert await list_dead_letters(store) == []
        async with store.read_snapshot() as tx:
            assert await store.dead_letters.group_by_error(tx, MATCH_ALL, limit=10) == []

    async def test_what_killed_its_workers_is_one_and_can_be_revived(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        for crash in range(MAX_WORKER_CRASHES):
            at = NOW + crash * timedelta(minutes=1)
            async with store.transaction() as tx:
                tasks = await store.deliveries.batch_due(tx, at, 10)
                batches = [task.ref for task in tasks] or [scene.batch_id]
                assert await store.deliveries.claim(tx, batches, token=new_id(at), now=at, lease_until=at + LEASE)
                await store.deliveries.release_all_leases(tx, at)
        [dead] = await list_dead_letters(store)
        assert (dead.crashes, dead.status, dead.attempts) == (MAX_WORKER_CRASHES, None, 0)
        assert dead.error == f"quarantined: {MAX_WORKER_CRASHES} workers died while sending it"
        assert await replay(store) == [dead.id]
        async with store.transaction() as tx:
            [task] = await store.deliveries.batch_due(tx, LATER, 10)
        assert task.kind is TaskKind.DELIVER, "its crashes are forgotten"

    async def test_the_list_goes_in_pages_newest_first(self, store: Store) -> None:
        first, second = (
            await create_dead_letters(store, "ana", "ben", "cleo"),
            await create_dead_letters(store, "dan", "eva"),
        )
        found, before = list[str](), None
        while True:
            async with store.read_snapshot() as tx:
                page = await store.dead_letters.page(tx, MATCH_ALL, before=before, limit=2)
            if not page:
                break
            found += [one.id for one in page]
            before = page[-1].id
        assert found == sorted((one.id for scene in (first, second) for one in scene.planned), reverse=True)

    @pytest.mark.parametrize(
        "which",
        [
            DeadLetterFilter(error=TOO_LARGE.why),
            DeadLetterFilter(user_id="ana"),
            DeadLetterFilter(since=LATER + timedelta(seconds=1)),
            DeadLetterFilter(since=LATER + timedelta(minutes=1), until=LATER + timedelta(minutes=2)),
            DeadLetterFilter(channel="webpush", template_code="NEWS", error=TOO_LARGE.why, user_id="ana"),
        ],
    )
    async def test_a_filter_narrows_all_that_can_be_done(self, store: Store, which: DeadLetterFilter) -> None:
        meant = await create_dead_letters(store, "ana", outcome=TOO_LARGE, now=LATER + timedelta(minutes=1))
        other = await create_dead_letters(store, "ben")
        assert [one.user_id for one in await list_dead_letters(store, which)] == ["ana"]
        async with store.read_snapshot() as tx:
            assert [group.count for group in await store.dead_letters.group_by_error(tx, which, limit=10)] == [1]
        assert await replay(store, which) == [meant.planned[0].id]
        assert await discard(store, which) == 0
        assert await count_by_state(store, other.notification) == {"refused": 1}

    async def test_a_filter_narrows_by_what_it_belongs_to(self, store: Store) -> None:
        first, second = await create_dead_letters(store, "ana"), await create_dead_letters(store, "ana")
        ids = [one.planned[0].id for one in (second, first)]

        async def found(which: DeadLetterFilter) -> list[str]:
            return [one.id for one in await list_dead_letters(store, which)]

        assert await found(DeadLetterFilter(notification_id=first.notification.id)) == ids[1:]
        assert await found(DeadLetterFilter(ids=[ids[1], new_id(NOW), "no id at all"])) == ids[1:]
        assert await found(DeadLetterFilter(ids=[])) == []
        assert await found(DeadLetterFilter(template_code="NEWS")) == ids
        assert await found(DeadLetterFilter(template_code="OTHER")) == []
        assert await found(DeadLetterFilter(channel="email")) == []
        assert await found(DeadLetterFilter(until=LATER)) == []

    async def test_equal_errors_make_a_group_the_most_frequent_first(self, store: Store) -> None:
        await create_dead_letters(store, "ana", outcome=TOO_LARGE)
        for minutes in (2, 1):
            await create_dead_letters(store, "ana", "ben", now=LATER + timedelta(minutes=minutes))
        async with store.read_snapshot() as tx:
            assert await store.dead_letters.group_by_error(tx, MATCH_ALL, limit=10) == [
                ErrorGroup(FORBIDDEN.why, 4, LATER + timedelta(minutes=1), LATER + timedelta(minutes=2)),
                ErrorGroup(TOO_LARGE.why, 1, LATER, LATER),
            ]
            assert len(await store.dead_letters.group_by_error(tx, MATCH_ALL, limit=1)) == 1

    async def test_a_revived_one_is_sent_again_with_fresh_attempts_when_it_is_due(self, store: Store) -> None:
        scene = await create_dead_letters(store, "ana")
        due_at = LATER + timedelta(minutes=1)
        assert await replay(store, due_at=due_at) == [scene.planned[0].id]
        assert await list_dead_letters(store) == []
        async with store.transaction() as tx:
            assert not await store.deliveries.has_due(tx, due_at - timedelta(seconds=1))
            [task] = await store.deliveries.batch_due(tx, due_at, 10)
            [due] = await store.deliveries.claim(
                tx, [task.ref], token=new_id(due_at), now=due_at, lease_until=due_at + LEASE
            )
        assert (due.id, due.attempts, task.lane) == (scene.planned[0].id, 0, scene.planned[0].lane)

    async def test_the_story_of_a_revived_one_stays_readable(self, store: Store) -> None:
        scene = await create_dead_letters(store, "ana")
        await replay(store)
        async with store.read_snapshot() as tx:
            [trace] = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=10
            )
        assert (trace.state, trace.why) == ("pending", FORBIDDEN.why)
        assert [(one.outcome, one.status) for one in trace.attempts] == [("refused", 403)]

    async def test_what_is_cancelled_or_would_come_too_late_stays_dead(self, store: Store) -> None:
        cancelled, late = await create_dead_letters(store, "ana"), await create_dead_letters(store, "ben")
        async with store.transaction() as tx:
            await store.notifications.cancel(tx, cancelled.notification.id)
        assert await replay(store, due_at=late.notification.expires_at) == []
        assert await replay(store) == [late.planned[0].id]
        assert [one.user_id for one in await list_dead_letters(store)] == ["ana"]

    async def test_no_more_are_revived_than_asked_for_and_none_stands_in_the_way(self, store: Store) -> None:
        await create_dead_letters(store, *(f"user-{number}" for number in range(5)))
        hopeless = await create_dead_letters(store, "ana", "ben")
        async with store.transaction() as tx:
            await store.notifications.cancel(tx, hopeless.notification.id)
        assert [len(await replay(store, limit=2)) for _ in range(4)] == [2, 2, 1, 0]

    async def test_a_discarded_one_is_off_the_list_for_good(self, store: Store) -> None:
        scene = await create_dead_letters(store, "ana", "ben", "cleo")
        assert await discard(store, limit=2) == 2
        assert len(await list_dead_letters(store)) == 1
        assert await discard(store) == 1
        assert await discard(store) == 0
        assert await replay(store) == []
        assert await count_by_state(store, scene.notification) == {"discarded": 3}

    async def test_two_operators_at_once_do_everything_once(self, store: Store) -> None:
        scene = await create_dead_letters(store, *(f"user-{number:02}" for number in range(40)))
        revived = await asyncio.gather(*(replay(store, limit=15) for _ in range(6)))
        # each operator skips rows that the other has locked, so another round may be needed
        revived.append(await replay(store))
        ids = [one for page in revived for one in page]
        assert sorted(ids) == sorted(one.id for one in scene.planned)
        assert await count_by_state(store, scene.notification) == {"pending": 40}

    async def test_an_erased_user_leaves_no_dead_letters(self, store: Store) -> None:
        await create_dead_letters(store, "ana")
        async with store.transaction() as tx:
            await store.users.erase(tx, "ana")
        assert await list_dead_letters(store) == []

    async def test_a_page_is_one_statement(self, store: Store) -> None:
        await create_dead_letters(store, "ana", "ben")
        async with store.read_snapshot() as tx:
            before = store.statement_count
            filters = replace(MATCH_ALL, template_code="NEWS", error=FORBIDDEN.why)
            assert len(await store.dead_letters.page(tx, filters, before=None, limit=10)) == 2
            assert store.statement_count - before == 1
