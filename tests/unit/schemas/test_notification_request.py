"""POST /api/notifications: from the body to the request."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tidings.errors import ValidationFailed
from tidings.model.audience import Complement, Intersection, NamedSet, users
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.schemas import json_body
from tidings.schemas.notification_request import NotifyBody, to_notify_request, with_caller_field_names

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _request(body: dict[str, object]) -> NotifyRequest:
    return to_notify_request(
        json_body.parse_body(msgspec.json.encode({"templateCode": "MESSAGE"} | body), NotifyBody), NOW
    )


def _errors(body: dict[str, object]) -> list[str]:
    with pytest.raises(ValidationFailed) as caught:
        _request(body)
    return [error.field for error in caught.value.field_errors]


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
    assert request.audience == Intersection((NamedSet("ticket_holders", {"eventId": "e1"}), Complement(users("u4"))))


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
    assert _errors(body) == [field]


def test_an_error_of_the_audience_has_the_callers_field_name() -> None:
    body = json_body.parse_body(b'{"templateCode": "M", "userId": "u1"}', NotifyBody)
    error = with_caller_field_names(body, ValidationFailed.for_field("userIds", "no such user", code="unknown_user"))
    assert error.field_errors[0].field == "userId"
    assert error.code == "unknown_user"


def test_a_step_that_waits_for_an_unknown_condition_names_both_forms() -> None:
    steps = [{"channels": ["inapp"]}, {"channels": ["email"], "unless": "invoice.paid"}]
    with pytest.raises(ValidationFailed) as caught:
        _request({"userId": "u1", "options": {"steps": steps}})
    assert [(error.field, error.message) for error in caught.value.field_errors] == [
        (
            "options.steps[1].unless",
            'must be one of delivered, seen, read, clicked, or {"event": "invoice.paid"} for a domain event',
        )
    ]
