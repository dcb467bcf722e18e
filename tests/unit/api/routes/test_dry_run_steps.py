"""A dry run shows later steps: when each starts at the earliest, and what the rules decide then."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.asgi_client import Client

from tidings.model.ids import new_id

STEPS = [
    {"channels": ["email"]},
    {"channels": ["sms"], "afterSeconds": 7_200, "unless": "read"},
    {"channels": ["webpush"], "afterSeconds": 600, "unless": {"event": "invoice.paid"}},
]


@pytest.fixture(autouse=True)
def _configure_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "TIDINGS_SMTP_URL": "smtp://127.0.0.1:9",
        "TIDINGS_EMAIL_FROM": "Jazz Club <news@jazz.example>",
        "TIDINGS_SMS_URL": "http://AC1:secret@127.0.0.1:9",
        "TIDINGS_SMS__SENDER": "+15005550006",
        "TIDINGS_SMS__COUNTRIES": "US",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


async def show(call: Client, **options: object) -> dict[str, Any]:
    """Return what a dry run says of a user with an address, a phone and quiet hours of the phone."""
    user = {"email": "ana@example.org", "phone": "+12025550123", "timezone": "UTC"}
    await call("PUT", "/api/users/ana", json=user)
    quiet = {"quietHours": [{"channels": ["sms"], "start": "14:00", "end": "16:00"}]}
    assert (await call("PUT", "/api/users/ana/schedule", json=quiet)).status == 200
    request = {
        "userId": "ana",
        "templateCode": "MESSAGE",
        "variables": {"title": "Invoice", "body": "Please pay"},
        "options": {"steps": STEPS, **options, "dryRun": True},
    }
    reply = await call("POST", "/api/notifications", json=request)
    assert reply.status == 200, reply.json
    [recipient] = reply.json["decisions"]
    shown: dict[str, Any] = recipient
    return shown


def summarize(channels: list[dict[str, Any]]) -> list[tuple[str | None, str, str | None]]:
    return [(one["channel"], one["decision"], one["at"]) for one in channels]


def later(instant: str, seconds: int) -> str:
    return (datetime.fromisoformat(instant) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


async def test_each_step_is_decided_at_its_time(call: Client) -> None:
    shown = await show(call)
    assert summarize(shown["channels"]) == [("email", "send", "2026-11-22T12:00:00Z")]
    sms, push = shown["steps"]
    assert {name: value for name, value in sms.items() if name != "channels"} == {
        "step": 1,
        "afterSeconds": 7_200,
        "unless": "read",
        "event": None,
        "startsAt": "2026-11-22T14:00:00Z",
        "cause": "handed_over",
    }
    [held] = sms["channels"]
    assert (held["decision"], held["rule"]) == ("hold", "quiet_hours")
    assert held["at"] >= "2026-11-22T16:00:00Z"
    # its clock starts when the one before is released
    assert (push["unless"], push["event"], push["startsAt"]) == ("event", "invoice.paid", later(held["at"], 600))
    assert [(one["decision"], one["reason"]) for one in push["channels"]] == [("skip", "no_device")]


async def test_the_steps_of_a_digest_start_after_it_closes(call: Client) -> None:
    shown = await show(call, digest={"windowSeconds": 600})
    assert summarize(shown["channels"]) == [(None, "digest", "2026-11-22T12:10:00Z")]
    assert shown["steps"][0]["startsAt"] == "2026-11-22T14:10:00Z"


async def test_the_clock_begins_when_the_notification_is_due(call: Client) -> None:
    shown = await show(call, sendAt="2026-11-22T18:00:00Z")
    assert summarize(shown["channels"]) == [("email", "send", "2026-11-22T18:00:00Z")]
    sms, _ = shown["steps"]
    assert summarize(sms["channels"]) == [("sms", "send", "2026-11-22T20:00:00Z")]


async def test_a_step_that_reaches_nobody_starts_the_next_one_at_once(call: Client) -> None:
    steps = [{"channels": ["webpush"]}, {"channels": ["email"], "afterSeconds": 60}]
    shown = await show(call, steps=steps)
    assert [(one["channel"], one["decision"]) for one in shown["channels"]] == [("email", "send"), ("webpush", "skip")]
    assert shown["steps"] == []


async def test_the_times_of_a_dry_run_do_not_move_the_clock_of_ids(call: Client) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    before = new_id(now)
    await show(call, sendAt="2027-09-22T18:00:00Z")
    assert _read_time(new_id(now)) - _read_time(before) < timedelta(seconds=1)


def _read_time(id_: str) -> datetime:
    """Return the time of an id (RFC 9562 §5.7)."""
    return datetime.fromtimestamp(int(id_.replace("-", "")[:12], 16) / 1000, UTC)


async def test_a_throttle_whose_excess_is_collected_shows_what_is_sent_within_it(call: Client) -> None:
    throttle = {"limit": 1, "windowSeconds": 3_600, "instead": "digest"}
    digest = {"windowSeconds": 600, "channels": ["email"]}
    shown = await show(call, steps=[], channels=["email"], throttle=throttle, digest=digest)
    assert summarize(shown["channels"]) == [("email", "send", "2026-11-22T12:00:00Z")]
    assert [one["aboveLimit"] for one in shown["channels"]] == ["digest"]
