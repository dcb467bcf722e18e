"""The declarative JSON, and how it is shortened to fit."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.channels.webpush import base64url
from tidings.channels.webpush.encryption import DEFAULT_MAX_PAYLOAD
from tidings.channels.webpush.payload import build_topic, encode_payload, shrink, truncate_text
from tidings.model.template import MessageAction, RenderedMessage

EXPIRES = datetime(2026, 11, 22, 12, tzinfo=UTC)
CONTENT = RenderedMessage(
    title="Jazz night starts later",
    body="7:00 PM → 8:30 PM",
    url="https://tickets.example.com/e/1",
    lang="en",
    actions=(MessageAction("open", "Open", "https://tickets.example.com/e/1"),),
)


def encoded(content: RenderedMessage = CONTENT, cap: int = DEFAULT_MAX_PAYLOAD) -> bytes:
    return encode_payload(
        content, notification_id="n-1", delivery_id="d-1", tag="t-1", expires_at=EXPIRES, max_bytes=cap
    )


def notification(payload: bytes) -> dict[str, Any]:
    declared = json.loads(payload)["notification"]
    assert isinstance(declared, dict)
    return declared


def test_every_field_of_the_declarative_form_is_there() -> None:
    assert json.loads(encoded()) == {
        "web_push": 8030,
        "notification": {
            "title": "Jazz night starts later",
            "navigate": "https://tickets.example.com/e/1",
            "body": "7:00 PM → 8:30 PM",
            "lang": "en",
            "dir": "ltr",
            "tag": "t-1",
            "data": {"notificationId": "n-1", "deliveryId": "d-1", "expiresAt": 1_795_348_800_000},
            "actions": [{"action": "open", "title": "Open", "navigate": "https://tickets.example.com/e/1"}],
        },
    }


def test_without_actions_the_member_is_left_out() -> None:
    assert "actions" not in notification(encoded(RenderedMessage("t", "b", "https://x.example/", "en")))


def test_the_direction_of_the_script_is_kept() -> None:
    assert notification(encoded(RenderedMessage("t", "b", "https://x.example/", "ar", "rtl")))["dir"] == "rtl"


@settings(deadline=None)
@given(title=st.text(max_size=300), body=st.text(max_size=6000))
def test_any_text_fits_under_the_cap_and_is_json(title: str, body: str) -> None:
    payload = encoded(RenderedMessage(title, body, "https://x.example/", "en"))
    assert len(payload) <= DEFAULT_MAX_PAYLOAD
    assert notification(payload)["title"] == title


def test_text_with_half_a_surrogate_pair_is_still_sent() -> None:
    assert notification(encoded(RenderedMessage("a\ud800b", "c", "https://x.example/", "en")))["title"] == "a\ufffdb"


def test_shrinking_drops_image_and_actions_before_it_cuts_text() -> None:
    message = json.loads(encoded())
    message["notification"]["image"] = "https://x.example/" + "i" * 900
    smaller = shrink(json.dumps(message).encode(), 600)
    assert smaller is not None
    assert "image" not in notification(smaller)
    assert "actions" not in notification(smaller)
    assert notification(smaller)["body"] == CONTENT.body


def test_shrinking_cuts_the_body_and_says_so() -> None:
    smaller = shrink(encoded(RenderedMessage("t", "word " * 500, "https://x.example/", "en")), 1024)
    assert smaller is not None
    assert len(smaller) <= 1024
    assert notification(smaller)["body"].endswith("…")


def test_a_payload_that_cannot_shrink_is_not_sent_again() -> None:
    assert shrink(encoded(RenderedMessage("t", "b", "https://x.example/", "en")), 1024) is None
    assert shrink(b"not json", 1024) is None
    assert shrink(b"[1]", 1024) is None
    assert shrink(encoded(RenderedMessage("t", "b", "https://x.example/", "en")), 100) is None


def test_a_link_without_bytes_for_text_becomes_the_front_page() -> None:
    smaller = shrink(encoded(RenderedMessage("Title", "body", "https://x.example:8443/" + "p" * 1900, "en")), 921)
    assert smaller is not None
    declared = notification(smaller)
    assert (declared["navigate"], declared["title"], declared["body"]) == ("https://x.example:8443/", "Title", "body")


@pytest.mark.parametrize("cap", [409, 665, 921, DEFAULT_MAX_PAYLOAD])
@pytest.mark.parametrize("title", ["t", "word " * 1000, "漢" * 2000, '"' * 3000, "👩\u200d🚀" * 500])
@pytest.mark.parametrize("body", ["b", "word " * 1000, "漢" * 2000])
@pytest.mark.parametrize("url", ["https://x.example/", "https://x.example/" + "é" * 990])
def test_neither_title_nor_body_is_ever_emptied(cap: int, title: str, body: str, url: str) -> None:
    payload = encoded(RenderedMessage(title, body, url, "en"), cap)
    declared = notification(payload)
    assert len(payload) <= cap
    assert declared["title"]
    assert declared["body"]


def test_a_long_title_leaves_two_lines_to_the_body() -> None:
    declared = notification(encoded(RenderedMessage("word " * 1000, "word " * 1000, "https://x.example/", "en"), 921))
    assert len(declared["body"]) >= 100
    assert len(declared["title"]) > len(declared["body"])


@pytest.mark.parametrize("character", ["e\u0301", "👍🏽", "👩\u200d🚀", "❤\ufe0f", "नि", "🇨🇭"])
@pytest.mark.parametrize("limit", range(8, 40))
def test_a_grapheme_cluster_is_never_split(character: str, limit: int) -> None:
    short = truncate_text(character * 20, limit)
    assert short.removesuffix("…") == character * (short.removesuffix("…").count(character))


@given(text=st.text(), limit=st.integers(0, 60))
def test_shortened_text_keeps_within_its_limit(text: str, limit: int) -> None:
    assert len(msgspec.json.encode(truncate_text(text, limit))) - 2 <= limit


def test_the_topic_is_stable_and_apple_can_decode_it() -> None:
    topic = build_topic("n-1")
    assert topic == build_topic("n-1") != build_topic("n-2")
    assert len(topic) == 32
    assert base64url.decode(topic)
