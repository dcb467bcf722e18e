"""Suite for `ports.user_schedules.UserSchedules`, and for what quiet hours hold in deliveries."""

from datetime import timedelta

from msgspec import structs

from tidings.model.delivery import HoldRecord
from tidings.model.ids import new_id
from tidings.model.user import User
from tidings.model.user_schedule import NO_SCHEDULE, QuietHours, UserSchedule
from tidings.ports.store import Store
from tidings.testing.contracts.samples import (
    LEASE,
    NOW,
    PlannedNotification,
    create_planned_notification,
    make_attempt_result,
    make_subscription,
)

NIGHT = UserSchedule("Europe/Rome", (QuietHours("22:00", "07:00", days=("MON",), channels=("webpush",)),), "08:00")
MORNING = NOW + timedelta(hours=9)


class UserSchedulesContract:
    """Provide a fixture `store`: an empty store of the adapter."""

    async def test_a_schedule_is_stored_as_a_whole(self, store: Store) -> None:
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana"), User("ben")], NOW)
            assert await store.user_schedules.get(tx, "ana") == NO_SCHEDULE
            for schedule in (NIGHT, UserSchedule(quiet_hours=()), UserSchedule("UTC"), NO_SCHEDULE):
                await store.user_schedules.set(tx, "ana", schedule, NOW)
                assert await store.user_schedules.get(tx, "ana") == schedule
            assert await store.user_schedules.get(tx, "ben") == NO_SCHEDULE

    async def test_planning_and_sending_read_the_schedule_and_the_zone_of_the_device(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana", "ben")
        [device, _] = scene.devices
        async with store.transaction() as tx:
            await store.user_schedules.set(tx, "ana", NIGHT, NOW)
            abroad = structs.replace(device, timezone="Asia/Tokyo")
            await store.subscriptions.register(tx, abroad, replaces=None, now=NOW)
            page = await store.audiences.page(tx, scene.notification.audience, category="NEWS", after=None, limit=9)
            named = await store.audiences.load_recipients(tx, [("ana", "NEWS", None), ("ben", "NEWS", None)])
        for ana, ben in (page, named):
            assert ana is not None
            assert ben is not None
            assert (ana.schedule, ana.target_timezones) == (NIGHT, {device.id: "Asia/Tokyo"})
            assert (ben.schedule, ben.target_timezones) == (NO_SCHEDULE, {})
        claimed = {delivery.user_id: delivery for delivery in await scene.claim(store)}
        assert (claimed["ana"].schedule, claimed["ana"].device_timezone) == (NIGHT, "Asia/Tokyo")
        assert (claimed["ben"].schedule, claimed["ben"].device_timezone) == (NO_SCHEDULE, None)

    async def test_c29_a_changed_schedule_makes_what_is_held_for_its_user_due(self, store: Store) -> None:
        scene = await self._hold(store, "ana", "ben")
        async with store.transaction() as tx:
            await store.user_schedules.set(tx, "ana", NIGHT, NOW)
        assert await self._list_due(store, scene) == ["ana"]

    async def test_c29_a_changed_time_zone_of_the_user_makes_it_due_and_other_changes_do_not(
        self, store: Store
    ) -> None:
        scene = await self._hold(store, "ana", "ben")
        async with store.transaction() as tx:
            await store.users.upsert(tx, [User("ana", city="Rome"), User("ben", timezone="Asia/Tokyo")], NOW)
        assert await self._list_due(store, scene) == ["ben"]

    async def test_c29_a_changed_time_zone_of_the_device_makes_it_due_and_another_visit_does_not(
        self, store: Store
    ) -> None:
        scene = await self._hold(store, "ana", "ben")
        ana, ben = scene.devices
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, structs.replace(ana, timezone="Asia/Tokyo"), replaces=None, now=NOW)
            await store.subscriptions.register(tx, ben, replaces=None, now=NOW)
        assert await self._list_due(store, scene) == ["ana"]

    async def test_c29_a_device_that_is_replaced_by_one_in_another_zone_makes_it_due(self, store: Store) -> None:
        scene = await self._hold(store, "ana")
        [old] = scene.devices
        new = structs.replace(make_subscription("ana", "new"), timezone="Asia/Tokyo")
        async with store.transaction() as tx:
            await store.subscriptions.register(tx, new, replaces=old.endpoint, now=NOW)
        assert await self._list_due(store, scene) == ["ana"]

    async def test_what_waits_for_another_reason_is_not_released(self, store: Store) -> None:
        scene = await self._hold(store, "ana", rule="another_rule")
        async with store.transaction() as tx:
            await store.user_schedules.set(tx, "ana", NIGHT, NOW)
        assert await self._list_due(store, scene) == []

    async def test_a_delivery_says_what_held_it_until_it_has_another_outcome(self, store: Store) -> None:
        await self._hold(store, "ana")
        async with store.transaction() as tx:
            [task] = await store.deliveries.batch_due(tx, MORNING, 10)
            [claimed] = await store.deliveries.claim(
                tx, [task.ref], token=new_id(NOW), now=MORNING, lease_until=MORNING + LEASE
            )
        assert (claimed.held_by, claimed.attempts) == ("quiet_hours", 0)

    async def test_a_new_held_delivery_is_not_due_before_its_time(self, store: Store) -> None:
        scene = await create_planned_notification(store, "ana")
        [planned] = scene.planned
        held = structs.replace(
            planned, id=new_id(NOW), target_id=new_id(NOW), batch_id=None, due_at=MORNING, held_by="quiet_hours"
        )
        async with store.transaction() as tx:
            await store.deliveries.add(tx, [held], [], NOW)
            assert not await store.deliveries.has_due(tx, MORNING - timedelta(seconds=1))
            assert await store.deliveries.has_due(tx, MORNING)

    async def _hold(self, store: Store, *user_ids: str, rule: str = "quiet_hours") -> PlannedNotification:
        """Store deliveries that preflight held until the morning."""
        scene = await create_planned_notification(store, *user_ids)
        hold = HoldRecord(MORNING, rule, {"timezone": "UTC"})
        results = [make_attempt_result(claimed, hold) for claimed in await scene.claim(store)]
        async with store.transaction() as tx:
            assert await store.deliveries.record(tx, results, NOW) == len(user_ids)
        return scene

    async def _list_due(self, store: Store, scene: PlannedNotification) -> list[str]:
        """Return the users of the deliveries that are due now."""
        async with store.read_snapshot() as tx:
            traces = await store.deliveries.list_with_attempts(
                tx, scene.notification.id, user_id=None, after=None, limit=100
            )
        return sorted(trace.user_id for trace in traces if trace.due_at <= NOW)
