"""POST /api/notifications: from the body to the request."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tidings.edge import bodies
from tidings.edge.notify_body import NotifyBody, as_called, to_request
from tidings.errors import Invalid
from tidings.model.audience import AllOf, Except, Members, users
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _request(body: dict[str, object]) -> NotifyRequest:
    return to_request(bodies.read(msgspec.json.encode({"templateCode": "MESSAGE"} | body), NotifyBody), NOW)


def _faults(body: dict[str, object]) -> list[str]:
    with pytest.raises(Invalid) as caught:
        _request(body)
    return [fault.field for fault in caught.value.faults]


def test_one_user() -> None:
    request = _request({"userId": "u1", "variables": {"title": "Hi"}})
    assert request.audience == users("u1")
    assert request.variables == {"title": "Hi"}
    assert request.priority is None
    assert request.send_at is None


def test_all_options() -> None:
    request = _request(
        {
            "userIds": ["u1", "u2", "u1"],
            "options": {
                "priority": "urgent",
                "delay": 3_600_000,
                "expiresAt": "2026-11-22T15:00:00Z",
                "channels": ["webpush", "webpush"],
                "actionUrl": "/orders/1",
                "actionText": "Open",
            },
        }
    )
    assert request.audience == users("u1", "u2")
    assert request.priority is Priority.URGENT
    assert request.send_at == NOW + timedelta(hours=1)
    assert request.expires_at == NOW + timedelta(hours=3)
    assert request.channels == ("webpush",)
    assert (request.action_url, request.action_text) == ("/orders/1", "Open")


def test_an_audience_composes() -> None:
    ticket = {"kind": "ticket_holders", "eventId": "e1"}
    request = _request({"audience": {"and": [ticket, {"not": {"kind": "users", "userIds": ["u4"]}}]}})
    assert request.audience == AllOf((Members("ticket_holders", {"eventId": "e1"}), Except(users("u4"))))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "audience"),
        ({"userId": "u1", "userIds": ["u2"]}, "audience"),
        ({"userIds": []}, "userIds"),
        ({"userIds": ["u1", ""]}, "userIds[1]"),
        ({"userIds": ["u"] * 10_001}, "userIds"),
        ({"userId": 5}, "userId"),
        ({"userId": "u1", "templateCode": ""}, "templateCode"),
        ({"userId": "u1", "variables": []}, "variables"),
        ({"userId": "u1", "variables": {"x": "y" * 20_000}}, "variables"),
        ({"userId": "u1", "surprise": 1}, "surprise"),
        ({"audience": {"or": []}}, "audience.or"),
        ({"audience": "everyone"}, "audience"),
        ({"userId": "u1", "options": {"priority": "asap"}}, "options.priority"),
        ({"userId": "u1", "options": {"delay": -1}}, "options.delay"),
        ({"userId": "u1", "options": {"delay": True}}, "options.delay"),
        ({"userId": "u1", "options": {"delay": 400 * 86_400_000}}, "options.delay"),
        ({"userId": "u1", "options": {"delay": 1, "sendAt": "2026-11-23T00:00:00Z"}}, "options"),
        ({"userId": "u1", "options": {"sendAt": "2026-11-23T00:00:00"}}, "options.sendAt"),
        ({"userId": "u1", "options": {"sendAt": "2036-11-23T00:00:00Z"}}, "options.sendAt"),
        ({"userId": "u1", "options": {"expiresAt": "2026-11-22T11:00:00Z"}}, "options.expiresAt"),
        ({"userId": "u1", "options": {"actionUrl": "//evil"}}, "options.actionUrl"),
        ({"userId": "u1", "options": {"actionText": ""}}, "options.actionText"),
        ({"userId": "u1", "options": {"dryRun": "yes"}}, "options.dryRun"),
        ({"userId": "u1", "options": {"unknown": 1}}, "options.unknown"),
    ],
)
def test_each_mistake_names_its_field(body: dict[str, object], field: str) -> None:
    assert _faults(body) == [field]


def test_a_fault_of_the_audience_has_the_callers_name() -> None:
    body = bodies.read(b'{"templateCode": "M", "userId": "u1"}', NotifyBody)
    error = as_called(body, Invalid.field("userIds", "no such user", code="unknown_user"))
    assert error.faults[0].field == "userId"
    assert error.code == "unknown_user"
