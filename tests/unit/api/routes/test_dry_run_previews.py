"""A dry run shows what the message looks like on the channels that can describe it."""

from typing import Any

import pytest
from tests.support.asgi_client import Client


@pytest.fixture(autouse=True)
def _configure_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "TIDINGS_SMTP_URL": "smtp://127.0.0.1:9",
        "TIDINGS_EMAIL_FROM": "Jazz Club <news@jazz.example>",
        "TIDINGS_SMS_URL": "http://AC1:secret@127.0.0.1:9",
        "TIDINGS_SMS__SENDER": "+15005550006",
        "TIDINGS_SMS__COUNTRIES": "US",
        "TIDINGS_SMS__MAX_SEGMENTS": "2",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


async def preview(call: Client, body: str, **options: object) -> dict[str, Any]:
    request = {
        "userId": "u1",
        "templateCode": "MESSAGE",
        "variables": {"title": "Doors", "body": body},
        "options": {**options, "dryRun": True},
    }
    reply = await call("POST", "/api/notifications", json=request)
    assert reply.status == 200, reply.json
    previews: dict[str, Any] = reply.json["previews"]
    return previews


async def test_c65_a_dry_run_shows_characters_encoding_segments_and_what_forces_ucs2(call: Client) -> None:
    assert (await preview(call, "Open at six"))["sms"] == {
        "text": "Doors\nOpen at six",
        "encoding": "GSM-7",
        "characters": 17,
        "units": 17,
        "segments": 1,
        "forcedBy": None,
        "forcedByName": None,
        "isTooLong": False,
    }
    forced = (await preview(call, f"It’s open {'x' * 130}"))["sms"]
    assert (forced["encoding"], forced["segments"], forced["isTooLong"]) == ("UCS-2", 3, True)
    assert (forced["forcedBy"], forced["forcedByName"]) == ("’", "RIGHT SINGLE QUOTATION MARK")


async def test_c61_a_dry_run_shows_the_text_part_and_whether_a_mail_is_clipped(call: Client) -> None:
    short = (await preview(call, "Open at six"))["email"]
    assert (short["subject"], short["isClipped"]) == ("Doors", False)
    assert "Open at six" in short["text"]
    assert 1_000 < short["htmlBytes"] < 102_000
    assert (await preview(call, "'" * 16_000))["email"]["isClipped"] is True


async def test_only_the_channels_of_the_request_are_shown(call: Client) -> None:
    assert set(await preview(call, "Open")) == {"email", "sms"}
    assert set(await preview(call, "Open", channels=["sms", "webpush"])) == {"sms"}
