"""The older jobs for mails and text messages become messages to whoever has the address."""

from datetime import UTC, datetime

import pytest

from tidings.edge import jobs
from tidings.edge.old_jobs import MOST_WORDS, plain
from tidings.errors import Invalid
from tidings.model.priority import Priority
from tidings.model.user import Address

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MAIL = {"to": "ana@example.org", "subject": "Your order", "text": "It is on its way."}


def test_a_mail() -> None:
    asked = jobs.read("SEND_EMAIL", MAIL, priority=2)
    assert asked.whom == Address("email", "ana@example.org")
    request = asked.request(["u1"], NOW, "job")
    assert (request.template_code, request.channels, request.priority) == ("MESSAGE", ("email",), Priority.HIGH)
    assert request.variables == {"title": "Your order", "body": "It is on its way."}


def test_a_text_message_to_a_number_as_people_write_it() -> None:
    asked = jobs.read("SEND_SMS", {"to": "+41 (44) 123-45.67", "message": " Code 1234 "})
    assert asked.whom == Address("phone", "+41441234567")
    assert asked.variables == {"title": "Text message", "body": "Code 1234"}
    assert asked.options.channels == ["sms"]


@pytest.mark.parametrize("to", [" ana@example.org ", "Ana Blum <ana@example.org>", '"Blum, Ana" <ana@example.org>'])
def test_an_address_may_come_with_a_name(to: str) -> None:
    assert jobs.read("SEND_EMAIL", {**MAIL, "to": to}).whom == Address("email", "ana@example.org")


def test_the_user_can_be_named() -> None:
    assert jobs.read("SEND_EMAIL", {**MAIL, "userId": "u1"}).whom == ("u1",)


def test_what_else_these_producers_send_is_not_looked_at() -> None:
    assert jobs.read("SEND_EMAIL", {**MAIL, "from": "shop@example.org", "cc": [], "template": "x"}).whom


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"text": "T", "body": "B", "html": "<p>H</p>"}, "T"),
        ({"text": " ", "body": "B", "html": "<p>H</p>"}, "B"),
        ({"body": "<b>B</b>old"}, "Bold"),
        ({"html": "<p>H</p>"}, "H"),
    ],
)
def test_the_words_of_a_mail_are_the_first_of_text_body_and_html(parts: dict[str, str], words: str) -> None:
    data = {"to": "ana@example.org", "subject": "Your order", **parts}
    assert jobs.read("SEND_EMAIL", data).variables["body"] == words


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
def test_a_mail_in_html_is_kept_as_its_words(html: str, words: str) -> None:
    assert plain(html) == words


def test_a_long_mail_is_cut() -> None:
    words = jobs.read("SEND_EMAIL", {**MAIL, "text": "x" * 100_000}).variables["body"]
    assert isinstance(words, str)
    assert len(words) == MOST_WORDS
    assert words.endswith("x…")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("SEND_EMAIL", {**MAIL, "to": "ana"}, "to: must be an e-mail address such as ana@example.org"),
        ("SEND_EMAIL", {"to": "ana@example.org", "text": "x"}, "subject: is required"),
        ("SEND_EMAIL", {"to": "ana@example.org", "subject": "x"}, "give the words of the mail in text, body or html"),
        ("SEND_EMAIL", {**MAIL, "text": "", "html": "<p></p>"}, "give the words of the mail"),
        ("SEND_SMS", {"to": "0441234567", "message": "x"}, "to: must be a phone number with country code"),
        ("SEND_SMS", {"to": "+41441234567", "message": " "}, "message: must not be empty"),
        ("SEND_SMS", {"to": ["+41441234567"], "message": "x"}, "to: must be a string"),
    ],
)
def test_a_malformed_one_is_told_the_field_and_the_fix(name: str, data: object, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        jobs.read(name, data)
    assert reason in caught.value.message
