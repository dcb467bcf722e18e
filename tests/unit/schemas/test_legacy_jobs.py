"""Legacy e-mail and SMS jobs become messages to the user with the address."""

from datetime import UTC, datetime

import pytest

from tidings.errors import ValidationFailed
from tidings.model.priority import Priority
from tidings.model.user import ContactAddress
from tidings.schemas import job_parser
from tidings.schemas.legacy_jobs import JOB_NAMES, MAX_TEXT_LENGTH, check_channel, html_to_text

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MAIL = {"to": "ana@example.org", "subject": "Your order", "text": "It is on its way."}


def test_an_email_job() -> None:
    asked = job_parser.parse_job("SEND_EMAIL", MAIL, priority=2)
    assert asked.recipients == ContactAddress("email", "ana@example.org")
    request = asked.to_notify_request(["u1"], NOW, "job")
    assert (request.template_code, request.channels, request.priority) == ("MESSAGE", ("email",), Priority.HIGH)
    assert request.variables == {"title": "Your order", "body": "It is on its way."}


def test_an_sms_job_normalises_the_phone_number() -> None:
    asked = job_parser.parse_job("SEND_SMS", {"to": "+41 (44) 123-45.67", "message": " Code 1234 "})
    assert asked.recipients == ContactAddress("phone", "+41441234567")
    assert asked.variables == {"title": "Text message", "body": "Code 1234", "smsText": "Code 1234"}
    assert asked.options.channels == ["sms"]


@pytest.mark.parametrize("to", [" ana@example.org ", "Ana Blum <ana@example.org>", '"Blum, Ana" <ana@example.org>'])
def test_an_address_may_come_with_a_name(to: str) -> None:
    assert job_parser.parse_job("SEND_EMAIL", {**MAIL, "to": to}).recipients == ContactAddress(
        "email", "ana@example.org"
    )


def test_the_user_can_be_named() -> None:
    assert job_parser.parse_job("SEND_EMAIL", {**MAIL, "userId": "u1"}).recipients == ("u1",)


def test_other_fields_of_legacy_producers_are_ignored() -> None:
    assert job_parser.parse_job(
        "SEND_EMAIL", {**MAIL, "from": "shop@example.org", "cc": [], "template": "x"}
    ).recipients


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"text": "T", "body": "B", "html": "<p>H</p>"}, "T"),
        ({"text": " ", "body": "B", "html": "<p>H</p>"}, "B"),
        ({"body": "<b>B</b>old"}, "Bold"),
        ({"html": "<p>H</p>"}, "H"),
    ],
)
def test_the_text_of_an_email_is_the_first_of_text_body_and_html(parts: dict[str, str], words: str) -> None:
    data = {"to": "ana@example.org", "subject": "Your order", **parts}
    assert job_parser.parse_job("SEND_EMAIL", data).variables["body"] == words


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<html><head><title>T</title><style>p{}</style></head><body><h1>Hi</h1><p>A&amp;B</p></body>", "Hi\nA&B"),
        ("one<br>two   three\t<b>four</b>", "one\ntwo three four"),
        ("<script>alert('x')</script>safe <i>words</i>", "safe words"),
        ("<![odd declaration]> <p>words</p>", "words"),
        ("a < b and c > d", "a < b and c > d"),
        ("no tags\n  at all", "no tags\n  at all"),
    ],
)
def test_an_html_email_is_converted_to_text(html: str, words: str) -> None:
    assert html_to_text(html) == words


def test_a_long_email_is_truncated() -> None:
    words = job_parser.parse_job("SEND_EMAIL", {**MAIL, "text": "x" * 100_000}).variables["body"]
    assert isinstance(words, str)
    assert len(words) == MAX_TEXT_LENGTH
    assert words.endswith("x…")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("SEND_EMAIL", {**MAIL, "to": "ana"}, "to: must be an e-mail address such as ana@example.org"),
        ("SEND_EMAIL", {"to": "ana@example.org", "text": "x"}, "subject: is required"),
        ("SEND_EMAIL", {"to": "ana@example.org", "subject": "x"}, "give the text of the e-mail in text, body or html"),
        ("SEND_EMAIL", {**MAIL, "text": "", "html": "<p></p>"}, "give the text of the e-mail"),
        ("SEND_SMS", {"to": "0441234567", "message": "x"}, "to: must be a phone number with country code"),
        ("SEND_SMS", {"to": "+41441234567", "message": " "}, "message: must not be empty"),
        ("SEND_SMS", {"to": ["+41441234567"], "message": "x"}, "to: must be a string"),
    ],
)
def test_the_error_of_a_malformed_job_names_the_field_and_the_fix(name: str, data: object, reason: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        job_parser.parse_job(name, data)
    assert reason in caught.value.message


@pytest.mark.parametrize(("name", "channel"), [("SEND_EMAIL", "email"), ("SEND_SMS", "sms")])
def test_a_job_whose_channel_is_not_configured_is_rejected(name: str, channel: str) -> None:
    check_channel(name, (channel,))
    with pytest.raises(
        ValidationFailed, match=f"name: {name} needs the channel {channel}, which is not configured"
    ) as caught:
        check_channel(name, ("webpush",))
    assert caught.value.code == "channel_not_configured"


def test_other_jobs_need_no_channel_of_their_own() -> None:
    for name in {"publish-notification", "batch-notification", "nonsense"} - set(JOB_NAMES):
        check_channel(name, ())
