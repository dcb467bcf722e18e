"""The declarative JSON, and how it is made to fit."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.channels.webpush import base64url
from tidings.channels.webpush.encryption import DEFAULT_CAP
from tidings.channels.webpush.payload import encode, shorten, shrink, topic_for
from tidings.model.template import Action, Content

CONTENT = Content(
    title="Jazz night starts later",
    body="7:00 PM → 8:30 PM",
    url="https://tickets.example.com/e/1",
    lang="en",
    actions=(Action("open", "Open", "https://tickets.example.com/e/1"),),
)


def encoded(content: Content = CONTENT, cap: int = DEFAULT_CAP) -> bytes:
    return encode(content, notification_id="n-1", delivery_id="d-1", cap=cap)


def notification(payload: bytes) -> dict[str, Any]:
    found = json.loads(payload)["notification"]
    assert isinstance(found, dict)
    return found


def test_every_field_of_the_declarative_form_is_there() -> None:
    assert json.loads(encoded()) == {
        "web_push": 8030,
        "notification": {
            "title": "Jazz night starts later",
            "navigate": "https://tickets.example.com/e/1",
            "body": "7:00 PM → 8:30 PM",
            "lang": "en",
            "dir": "ltr",
            "tag": "n-1",
            "data": {"notificationId": "n-1", "deliveryId": "d-1"},
            "actions": [{"action": "open", "title": "Open", "navigate": "https://tickets.example.com/e/1"}],
        },
    }


def test_without_actions_the_member_is_left_out() -> None:
    assert "actions" not in notification(encoded(Content("t", "b", "https://x.example/", "en")))


def test_the_direction_of_the_script_is_kept() -> None:
    assert notification(encoded(Content("t", "b", "https://x.example/", "ar", "rtl")))["dir"] == "rtl"


@settings(deadline=None)
@given(title=st.text(max_size=300), body=st.text(max_size=6000))
def test_any_text_fits_under_the_cap_and_is_json(title: str, body: str) -> None:
    payload = encoded(Content(title, body, "https://x.example/", "en"))
    assert len(payload) <= DEFAULT_CAP
    assert notification(payload)["title"] == title


def test_text_with_half_a_surrogate_pair_is_still_sent() -> None:
    assert notification(encoded(Content("a\ud800b", "c", "https://x.example/", "en")))["title"] == "a\ufffdb"


def test_shrinking_drops_image_and_actions_before_it_cuts_text() -> None:
    message = json.loads(encoded())
    message["notification"]["image"] = "https://x.example/" + "i" * 900
    smaller = shrink(json.dumps(message).encode(), 600)
    assert smaller is not None
    assert "image" not in notification(smaller)
    assert "actions" not in notification(smaller)
    assert notification(smaller)["body"] == CONTENT.body


def test_shrinking_cuts_the_body_and_says_so() -> None:
    smaller = shrink(encoded(Content("t", "word " * 500, "https://x.example/", "en")))
    assert smaller is not None
    assert len(smaller) <= 1024
    assert notification(smaller)["body"].endswith("…")


def test_what_cannot_be_made_smaller_is_not_repeated() -> None:
    assert shrink(encoded(Content("t", "b", "https://x.example/", "en"))) is None
    assert shrink(b"not json") is None
    assert shrink(b"[1]") is None
    assert shrink(encoded(Content("t", "b", "https://x.example/" + "p" * 2000, "en"))) is None


@pytest.mark.parametrize("character", ["e\u0301", "👍🏽", "👩\u200d🚀", "❤\ufe0f", "नि"])
@pytest.mark.parametrize("limit", range(8, 40))
def test_a_character_people_see_as_one_is_never_cut(character: str, limit: int) -> None:
    short = shorten(character * 20, limit)
    assert short.removesuffix("…") == character * (short.removesuffix("…").count(character))


@given(text=st.text(), limit=st.integers(0, 60))
def test_shortened_text_keeps_within_its_limit(text: str, limit: int) -> None:
    assert len(msgspec.json.encode(shorten(text, limit))) - 2 <= limit


def test_the_topic_is_stable_and_apple_can_decode_it() -> None:
    topic = topic_for("n-1")
    assert topic == topic_for("n-1") != topic_for("n-2")
    assert len(topic) == 32
    assert base64url.decode(topic)
