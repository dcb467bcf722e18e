"""Tokens and pages of unsubscribe links."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.email.settings import EmailSettings
from tidings.channels.email.unsubscribe import Unsubscription, sign_unsubscription, verify_unsubscription
from tidings.channels.email.unsubscribe_page import render_confirmation, render_done, render_invalid

SECRET = "k" * 32
ANN = Unsubscription("ann", "news")
TOKEN = sign_unsubscription(SECRET, ANN)
SETTINGS = EmailSettings(brand_name="<b>Lumen</b>")


@given(st.text(min_size=1, max_size=128), st.text(min_size=1, max_size=64))
def test_a_token_names_user_and_category(user_id: str, category: str) -> None:
    unsubscription = Unsubscription(user_id, category)
    token = sign_unsubscription(SECRET, unsubscription)
    assert verify_unsubscription(SECRET, token) == unsubscription
    assert token.replace("-", "").replace("_", "").isalnum()


def test_c52_a_token_can_be_used_again_and_is_the_same_in_every_message() -> None:
    assert [verify_unsubscription(SECRET, TOKEN) for _ in range(3)] == [ANN] * 3
    assert sign_unsubscription(SECRET, ANN) == TOKEN


def test_every_changed_character_makes_a_token_invalid() -> None:
    for at, character in enumerate(TOKEN):
        for other in ("A" if character != "A" else "B", "é", "="):
            assert verify_unsubscription(SECRET, TOKEN[:at] + other + TOKEN[at + 1 :]) is None


@pytest.mark.parametrize(
    "token", ["", "=", "a" * 5000, TOKEN + "A", TOKEN[:-1], TOKEN + "=", " " + TOKEN, TOKEN + "\n"]
)
def test_other_spellings_are_invalid(token: str) -> None:
    assert verify_unsubscription(SECRET, token) is None


def test_a_token_of_another_secret_key_is_invalid() -> None:
    assert verify_unsubscription("x" * 32, TOKEN) is None


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("lang", ["en", "de-CH", "fr", "es", "it", "pt", "nl", "xx"])
def test_the_page_needs_no_script_and_posts_only_on_a_click(lang: str) -> None:
    elements = Elements(render_confirmation(SETTINGS, "<i>News</i>", lang)).found
    tags = [tag for tag, _ in elements]
    assert not {"script", "link", "img", "iframe", "i", "b"} & set(tags)
    assert [attributes.get("method") for tag, attributes in elements if tag == "form"] == ["post"]
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)
    for page in (render_done(SETTINGS, "News", lang), render_invalid(SETTINGS, lang)):
        assert "form" not in [tag for tag, _ in Elements(page).found]
