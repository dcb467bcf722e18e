"""Changes of events, and who is notified of them."""

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from tidings.errors import Conflict, NotFound, ValidationFailed
from tidings.model import audience
from tidings.model.priority import Priority
from tidings.packs.events import repository as rows
from tidings.packs.events.event import EventFields, EventStatus
from tidings.packs.events.service import EventService, EventUpdate
from tidings.stores.engine.transaction import connection_of
from tidings.stores.schema.tables import facts
from tidings.stores.store import SqlStore

if TYPE_CHECKING:
    from .conftest import ManualClock, RecordingNotifier

ACTIVE: EventFields = {"status": EventStatus.ACTIVE}


async def created(store: SqlStore, service: EventService, fields: EventFields) -> str:
    async with store.transaction() as tx:
        return (await service.create(tx, fields)).id


async def updated(store: SqlStore, service: EventService, event_id: str, fields: EventFields) -> EventUpdate:
    async with store.transaction() as tx:
        return await service.update(tx, event_id, fields)


async def test_a_new_event_is_a_draft_without_a_notification(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, fields)
    async with store.read_snapshot() as tx:
        event = await service.get(tx, event_id)
    assert (event.status, event.version, event.first_published_at) == (EventStatus.DRAFT, 1, None)
    assert notifier.requests == []


async def test_the_first_publication_is_announced_to_the_city_and_followers_of_the_host(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, fields)
    async with store.transaction() as tx:
        outcome = await service.publish(tx, event_id)
    (request,) = notifier.requests
    assert request.template_code == "NEW_EVENT"
    assert request.audience == audience.city("Basel") | audience.favourited_host("host-1")
    assert request.source == f"event:{event_id}:published"
    assert outcome.notification is not None
    assert outcome.event.first_published_at is not None


async def test_an_event_without_a_city_is_announced_to_all_users(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, {**fields, "city": None})
    await updated(store, service, event_id, ACTIVE)
    assert notifier.requests[0].audience == audience.everyone()


async def test_an_event_without_a_host_is_announced_to_the_city_only(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, {**fields, "host_id": None})
    await updated(store, service, event_id, ACTIVE)
    assert notifier.requests[0].audience == audience.city("Basel")


async def test_publishing_again_never_announces_twice(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, fields)
    for _ in range(2):
        async with store.transaction() as tx:
            await service.publish(tx, event_id)
    await updated(store, service, event_id, {"status": EventStatus.DRAFT})
    async with store.transaction() as tx:
        again = await service.publish(tx, event_id)
    assert notifier.codes == ["NEW_EVENT"]
    assert (again.event.status, again.notification) == (EventStatus.ACTIVE, None)


async def test_an_event_created_as_active_is_not_announced(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, {**fields, **ACTIVE})
    await updated(store, service, event_id, {"status": EventStatus.DRAFT})
    await updated(store, service, event_id, ACTIVE)
    assert notifier.requests == []


async def test_drafts_never_notify(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, fields)
    moved = await updated(store, service, event_id, {"venue": "Hall B"})
    async with store.transaction() as tx:
        await service.cancel(tx, event_id)
    assert moved.change is not None
    assert moved.change.is_significant
    assert notifier.requests == []


@pytest.mark.parametrize(
    ("change", "code", "type_", "priority"),
    [
        ({"venue": "Hall B"}, "EVENT_VENUE_CHANGE", "venue_change", Priority.HIGH),
        ({"end_date": None}, "EVENT_TIME_CHANGE", "time_change", Priority.HIGH),
        ({"status": EventStatus.COMPLETED}, "EVENT_STATUS_CHANGE", "status_change", Priority.NORMAL),
        ({"status": EventStatus.CANCELLED}, "EVENT_CANCELLATION", "cancellation", Priority.URGENT),
        ({"venue": "Hall B", "end_date": None, "title": "x"}, "EVENT_TIME_CHANGE", "time_change", Priority.HIGH),
    ],
)
async def test_a_significant_change_of_an_active_event_goes_to_its_ticket_holders(
    store: SqlStore,
    service: EventService,
    notifier: "RecordingNotifier",
    fields: EventFields,
    change: EventFields,
    code: str,
    type_: str,
    priority: Priority,
) -> None:
    event_id = await created(store, service, {**fields, **ACTIVE})
    outcome = await updated(store, service, event_id, change)
    (request,) = notifier.requests
    assert (request.template_code, request.priority) == (code, priority)
    assert request.audience == audience.ticket_holders(event_id)
    assert request.source == f"event:{event_id}:{type_}"
    assert outcome.problem is None
    assert outcome.change is not None
    changes = request.variables["changes"]
    assert isinstance(changes, list)
    assert len(changes) == len(outcome.change.fields) == len(change)


@pytest.mark.parametrize("change", [{"title": "x"}, {"city": None}, {"description": "x" * 10_000}, {"venue": "Hall A"}])
async def test_an_insignificant_change_sends_no_notification(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields, change: EventFields
) -> None:
    event_id = await created(store, service, {**fields, **ACTIVE})
    await updated(store, service, event_id, change)
    assert notifier.requests == []


async def test_an_update_that_changes_nothing_leaves_the_version(
    store: SqlStore, service: EventService, fields: EventFields
) -> None:
    event_id = await created(store, service, fields)
    outcome = await updated(store, service, event_id, fields)
    assert (outcome.event.version, outcome.change) == (1, None)


async def test_a_cancelled_event_cannot_be_cancelled_again(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, {**fields, **ACTIVE})
    async with store.transaction() as tx:
        await service.cancel(tx, event_id)
    async with store.transaction() as tx:
        with pytest.raises(Conflict) as refused:
            await service.cancel(tx, event_id)
    await updated(store, service, event_id, {"status": EventStatus.CANCELLED, "venue": "Hall B"})
    assert refused.value.code == "already_cancelled"
    assert notifier.codes == ["EVENT_CANCELLATION"]


async def test_reactivating_a_cancelled_event_notifies_the_ticket_holders(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, {**fields, **ACTIVE})
    await updated(store, service, event_id, {"status": EventStatus.CANCELLED})
    await updated(store, service, event_id, ACTIVE)
    assert notifier.codes == ["EVENT_CANCELLATION", "EVENT_STATUS_CHANGE"]


@pytest.mark.parametrize("status", [EventStatus.CANCELLED, EventStatus.COMPLETED])
async def test_a_cancelled_or_past_event_cannot_be_published(
    store: SqlStore, service: EventService, fields: EventFields, status: EventStatus
) -> None:
    event_id = await created(store, service, {**fields, "status": status})
    async with store.transaction() as tx:
        with pytest.raises(Conflict, match="set its status to ACTIVE"):
            await service.publish(tx, event_id)


async def test_a_status_that_is_not_allowed_names_the_possible_ones(
    store: SqlStore, service: EventService, fields: EventFields
) -> None:
    event_id = await created(store, service, {**fields, "status": EventStatus.COMPLETED})
    async with store.transaction() as tx:
        with pytest.raises(Conflict, match="allowed: ACTIVE"):
            await service.cancel(tx, event_id)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ValidationFailed.for_field("templateCode", "no template"), "templateCode: no template"),
        (RuntimeError("ana@example.org"), "internal error (RuntimeError)"),
    ],
)
async def test_a_failed_notification_does_not_undo_the_update(
    store: SqlStore,
    service: EventService,
    notifier: "RecordingNotifier",
    fields: EventFields,
    failure: Exception,
    message: str,
) -> None:
    event_id = await created(store, service, {**fields, **ACTIVE})
    notifier.failure = failure
    with capture_logs() as logged:
        outcome = await updated(store, service, event_id, {"venue": "Hall B"})
    assert outcome.notification is None
    assert outcome.problem is not None
    assert message in outcome.problem
    async with store.read_snapshot() as tx:
        assert (await service.get(tx, event_id)).venue == "Hall B"
        # the writes of the failed notifier are rolled back
        assert (await connection_of(tx).execute(select(facts))).all() == []
    (entry,) = logged
    assert entry["event_id"] == event_id
    assert "ana@example.org" not in f"{entry}{outcome.problem}"


async def test_a_lost_race_is_a_conflict(
    store: SqlStore,
    service: EventService,
    fields: EventFields,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event_id = await created(store, service, fields)
    async with store.read_snapshot() as tx:
        stale = await service.get(tx, event_id)
    await updated(store, service, event_id, {"venue": "Hall B"})

    async def read_before_the_other(*_: object, **__: object) -> object:
        return stale

    monkeypatch.setattr(rows, "get", read_before_the_other)
    async with store.transaction() as tx:
        with pytest.raises(Conflict) as lost:
            await service.update(tx, event_id, {"venue": "Hall C"})
    assert lost.value.code == "event_changed"


async def test_an_end_before_its_start_is_refused_and_nothing_stored(
    store: SqlStore, service: EventService, fields: EventFields
) -> None:
    event_id = await created(store, service, fields)
    async with store.transaction() as tx:
        with pytest.raises(ValidationFailed) as refused:
            await service.update(tx, event_id, {"start_date": fields["start_date"] + timedelta(days=1)})
    assert [error.field for error in refused.value.field_errors] == ["endDate"]
    async with store.read_snapshot() as tx:
        assert (await service.get(tx, event_id)).version == 1


@pytest.mark.parametrize("event_id", ["", "nope", "a\0b"])
async def test_an_unknown_event_is_not_found(store: SqlStore, service: EventService, event_id: str) -> None:
    async with store.transaction() as tx:
        with pytest.raises(NotFound):
            await service.update(tx, event_id, {"venue": "x"})


async def test_a_host_message_is_sent_to_ticket_holders(
    store: SqlStore, service: EventService, notifier: "RecordingNotifier", fields: EventFields
) -> None:
    event_id = await created(store, service, {**fields, **ACTIVE})
    async with store.transaction() as tx:
        await service.notify(tx, event_id, "Doors", "Open at 17:00")
    (request,) = notifier.requests
    assert (request.template_code, request.audience) == ("EVENT_MANUAL", audience.ticket_holders(event_id))
    assert (request.variables["title"], request.variables["body"]) == ("Doors", "Open at 17:00")


async def test_the_host_of_a_draft_cannot_send_a_message(
    store: SqlStore, service: EventService, fields: EventFields
) -> None:
    event_id = await created(store, service, fields)
    async with store.transaction() as tx:
        with pytest.raises(Conflict, match="draft"):
            await service.notify(tx, event_id, "Doors", "Open at 17:00")


async def test_lists_are_newest_first_in_pages(
    store: SqlStore, service: EventService, clock: "ManualClock", fields: EventFields
) -> None:
    ids = []
    for number in range(5):
        clock.instant += timedelta(seconds=1)
        status = EventStatus.ACTIVE if number % 2 else EventStatus.DRAFT
        ids.append(await created(store, service, {**fields, "status": status}))
    async with store.read_snapshot() as tx:
        first = await service.page(tx, status=None, city="Basel", before=None, limit=3)
        rest = await service.page(tx, status=None, city=None, before=first[-1].id, limit=3)
        active = await service.page(tx, status=EventStatus.ACTIVE, city=None, before=None, limit=9)
        nowhere = await service.page(tx, status=None, city="Bern", before=None, limit=9)
    assert [event.id for event in [*first, *rest]] == ids[::-1]
    assert [event.id for event in active] == [ids[3], ids[1]]
    assert nowhere == []
