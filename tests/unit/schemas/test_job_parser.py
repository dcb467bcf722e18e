"""Jobs of other services: the parsed request, or errors in the job's own field names."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidings.errors import ValidationFailed
from tidings.model.audience import users
from tidings.model.priority import Priority
from tidings.schemas import job_parser
from tidings.schemas.job_request import FailedRecipient, JobRequest

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WORDS = {"templateCode": "MESSAGE", "variables": {"title": "Hi", "body": "You"}}
ONE = {"userId": "u1", **WORDS}


def errors(name: str, data: object) -> dict[str, str]:
    with pytest.raises(ValidationFailed) as caught:
        job_parser.parse_job(name, data).to_notify_request(["u1"], NOW, "job")
    assert all(error.field in caught.value.message for error in caught.value.field_errors)
    return {error.field: error.message for error in caught.value.field_errors}


@pytest.mark.parametrize("name", ["publish-notification", "send-notification"])
def test_one_user(name: str) -> None:
    asked = job_parser.parse_job(name, ONE)
    assert (asked.recipients, asked.is_batch) == (("u1",), False)
    request = asked.to_notify_request(["u1"], NOW, "job:7")
    assert (request.template_code, request.audience, request.source) == ("MESSAGE", users("u1"), "job:7")
    assert request.variables == {"title": "Hi", "body": "You"}


@pytest.mark.parametrize("name", ["publish-batch-notification", "batch-notification"])
def test_many_users_each_once(name: str) -> None:
    asked = job_parser.parse_job(name, {"userIds": ["u2", "u1", "u2"], **WORDS})
    assert (asked.recipients, asked.failed_recipients, asked.is_batch) == (("u2", "u1"), (), True)


def test_invalid_user_ids_are_reported_separately() -> None:
    asked = job_parser.parse_job("batch-notification", {"userIds": ["u1", 42, "a/b", {"id": "x"}, ""], **WORDS})
    assert asked.recipients == ("u1",)
    assert [one.user_id for one in asked.failed_recipients] == ["42", "a/b", '{"id": "x"}', ""]
    assert asked.failed_recipients[0] == FailedRecipient("42", "must be a string")
    assert "must not contain /" in asked.failed_recipients[1].reason


OPTIONS = {
    "priority": "high",
    "delay": 90_000,
    "expiresAt": "2026-11-23T12:00:00Z",
    "channels": ["webpush"],
    "actionUrl": "/orders/123",
    "actionText": "View order",
}


@pytest.mark.parametrize("data", [{**ONE, **OPTIONS}, {**ONE, "options": OPTIONS}], ids=["beside", "in options"])
def test_options_are_read_at_top_level_or_in_options(data: dict[str, object]) -> None:
    request = job_parser.parse_job("publish-notification", data).to_notify_request(["u1"], NOW, "job")
    assert request.priority is Priority.HIGH
    assert request.send_at == NOW + timedelta(seconds=90)
    assert request.expires_at == NOW + timedelta(days=1)
    assert (request.channels, request.action_url, request.action_text) == (("webpush",), "/orders/123", "View order")


def test_an_instant_as_javascript_writes_it() -> None:
    request = job_parser.parse_job(
        "send-notification", {**ONE, "sendAt": "2026-11-22T13:00:00.000Z"}
    ).to_notify_request(["u1"], NOW, "j")
    assert request.send_at == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("of_job", "in_data", "meant"),
    [
        (0, None, None),
        (1, None, Priority.URGENT),
        (2, None, Priority.HIGH),
        (3, None, Priority.NORMAL),
        (4, None, Priority.LOW),
        (2_000, None, Priority.LOW),
        (1, "low", Priority.LOW),
    ],
)
def test_the_priority_of_the_job_counts_where_the_data_names_none(
    of_job: int, in_data: str | None, meant: Priority | None
) -> None:
    data = ONE if in_data is None else {**ONE, "priority": in_data}
    asked = job_parser.parse_job("publish-notification", data, priority=of_job)
    assert asked.to_notify_request(["u1"], NOW, "job").priority is meant


@pytest.mark.parametrize(
    ("data", "field", "fix"),
    [
        ({"userId": "u1"}, "templateCode", "is required"),
        (WORDS, "userId", "is required"),
        ({**ONE, "userId": 42}, "userId", "must be a string"),
        ({**ONE, "variables": "Hi"}, "variables", "must be a JSON object"),
        ({**ONE, "priority": "asap"}, "priority", "must be one of urgent, high, normal, low"),
        ({**ONE, "options": {"priority": "asap"}}, "options.priority", "must be one of urgent, high, normal, low"),
        ({**ONE, "delay": "1000"}, "delay", "must be a whole number"),
        ({**ONE, "delay": 40_000_000_000}, "delay", "must be at most 365 days, in milliseconds"),
        ({**ONE, "options": {"delay": 40_000_000_000}}, "options.delay", "must be at most 365 days, in milliseconds"),
        ({**ONE, "expiresAt": "2026-11-22T11:00:00Z"}, "expiresAt", "must be later than the time of sending"),
        ({**ONE, "actionUrl": "javascript:alert(1)"}, "actionUrl", "http"),
        ({**ONE, "priority": "low", "options": {"priority": "low"}}, "priority", "give it once"),
        ({**ONE, "dryRun": True}, "dryRun", "not by jobs"),
        ({**ONE, "urgency": "high"}, "urgency", "throttle, channelSelection, priority, channels"),
        ([], "data", "must be a JSON object"),
        (None, "data", "must be a JSON object"),
        ({**ONE, "variables": {"n": float("nan")}}, "data", "must be JSON"),
    ],
)
def test_the_error_of_a_malformed_job_names_the_field_and_the_fix(data: object, field: str, fix: str) -> None:
    found = errors("publish-notification", data)
    assert list(found) == [field]
    assert fix in found[field]


@pytest.mark.parametrize("more", [{"delay": 5, "sendAt": "2027-01-01T00:00:00Z"}, {"delay": 5}])
def test_two_start_times_are_rejected(more: dict[str, object]) -> None:
    data = {**ONE, **more} if len(more) == 2 else {**ONE, **more, "options": {"sendAt": "2027-01-01T00:00:00Z"}}
    with pytest.raises(ValidationFailed, match="give delay or sendAt, not both"):
        job_parser.parse_job("publish-notification", data)


@pytest.mark.parametrize(("ids", "fix"), [([], "at least 1"), (["u"] * 10_001, "at most 10000"), ("u1", "a list")])
def test_a_batch_needs_a_list_of_some_length(ids: object, fix: str) -> None:
    assert fix in errors("batch-notification", {"userIds": ids, **WORDS})["userIds"]


def test_the_error_of_an_unknown_job_name_suggests_the_nearest() -> None:
    assert "did you mean publish-notification?" in errors("publish-notificatoin", ONE)["name"]
    assert "known are publish-notification, send-notification" in errors("zzz", ONE)["name"]


def test_depth_and_nul_are_checked_as_in_every_body() -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    for value, word in ((deep, "nested too deeply"), ("a\0b", "NUL")):
        with pytest.raises(ValidationFailed, match=word):
            job_parser.parse_job("publish-notification", {**ONE, "variables": {"v": value}})


def test_errors_of_users_have_the_field_name_of_the_job() -> None:
    error = ValidationFailed.for_field("userIds", "no such user: 'u1'")
    one: JobRequest = job_parser.parse_job("publish-notification", ONE)
    many: JobRequest = job_parser.parse_job("batch-notification", {"userIds": ["u1"], **WORDS})
    assert one.with_caller_field_names(error).message == "userId: no such user: 'u1'"
    assert many.with_caller_field_names(error).message == "userIds: no such user: 'u1'"
    channel = ValidationFailed.for_field("options.channels[1]", "unknown channel")
    beside = job_parser.parse_job("publish-notification", {**ONE, "channels": ["webpush", "pigeon"]})
    assert beside.with_caller_field_names(channel).field_errors[0].field == "channels[1]"
    inside = job_parser.parse_job("publish-notification", {**ONE, "options": {"channels": ["webpush", "pigeon"]}})
    assert inside.with_caller_field_names(channel).field_errors[0].field == "options.channels[1]"
