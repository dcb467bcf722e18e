"""Validation of links from callers and from template variables."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.errors import ValidationFailed
from tidings.flow.accept.validation import build_notification
from tidings.flow.catalog import Catalog
from tidings.model.audience import everyone
from tidings.model.links import MAX_LINK_BYTES, validate_link
from tidings.model.request import NotifyRequest
from tidings.packs.core import pack as core
from tidings.packs.events import pack as events
from tidings.rendering.minijinja_renderer import MinijinjaRenderer

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CATALOG = Catalog.from_packs([core, events], channels=["webpush"], known_channels=["webpush"])
WORDING = MinijinjaRenderer(CATALOG.filters, "https://shop.example")
MESSAGE = NotifyRequest(
    template_code="MESSAGE", audience=everyone(), variables={"title": "Hi", "body": "You"}, source="test"
)

RIGHT = [
    ("/", "https://shop.example/"),
    ("/orders/1?x=1#y", "https://shop.example/orders/1?x=1#y"),
    ("/straße/ü", "https://shop.example/straße/ü"),
    ("/@ana", "https://shop.example/@ana"),
    ("/a//b", "https://shop.example/a//b"),
    ("/.//evil.example", "https://shop.example//evil.example"),
    ("https://example.org/a", "https://example.org/a"),
    ("HTTPS://Example.org/a", "https://Example.org/a"),
    ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/"),
    ("https://[::1]:8000/", "https://[::1]:8000/"),
    ("https://example.org?next=@", "https://example.org?next=@"),
]
WRONG = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    " javascript:alert(1)",
    "\x01javascript:alert(1)",
    "data:text/html,<script>",
    "DATA:text/html,x",
    "vbscript:x",
    "file:///etc/passwd",
    "blob:https://example.org/1",
    "ftp://example.org/",
    "mailto:ana@example.org",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/a b",
    "/a\u00a0b",
    "/a\u2028b",
    "/half\ud800",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "https:\\\\evil.example",
    "https://good.example\\@evil.example/",
    "https://good.example@evil.example/",
    "https://user:pass@evil.example/",
    "https://@evil.example/",
    "https://:443/",
    "https://example.org:port/",
    "https://example.org:99999/",
    "https://[::1/",
    "orders/1",
    "?x=1",
    "#x",
    ".",
    "http://",
    "/" + "x" * MAX_LINK_BYTES,
]


@pytest.mark.parametrize(("link", "absolute"), RIGHT)
def test_a_valid_link_is_accepted_everywhere(link: str, absolute: str) -> None:
    assert validate_link(link) is None
    for request in (
        replace(MESSAGE, action_url=link),
        replace(MESSAGE, variables={**MESSAGE.variables, "url": link}),
    ):
        notification = build_notification(request, CATALOG, WORDING, notification_id="n1", now=NOW)
        shown = WORDING.render(CATALOG.get_template("MESSAGE"), notification, "en", "UTC")
        assert shown.url == absolute


@pytest.mark.parametrize("link", ["", *WRONG])
def test_an_invalid_link_of_the_caller_is_rejected(link: str) -> None:
    assert validate_link(link) is not None
    with pytest.raises(ValidationFailed) as refused:
        build_notification(replace(MESSAGE, action_url=link), CATALOG, WORDING, notification_id="n1", now=NOW)
    assert [error.field for error in refused.value.field_errors] == ["options.actionUrl"]


@pytest.mark.parametrize("link", WRONG)
@pytest.mark.parametrize(("code", "variable"), [("MESSAGE", "url"), ("EVENT_MANUAL", "eventUrl")])
def test_an_invalid_link_in_a_variable_is_rejected(code: str, variable: str, link: str) -> None:
    request = replace(MESSAGE, template_code=code, variables={**MESSAGE.variables, variable: link})
    with pytest.raises(ValidationFailed) as refused:
        build_notification(request, CATALOG, WORDING, notification_id="n1", now=NOW)
    assert [error.field for error in refused.value.field_errors] == ["variables"]


@pytest.mark.parametrize(("character", "size"), [("x", 1), ("é", 2), ("漢", 3), ("😀", 4), ('"', 2)])
def test_a_link_is_measured_in_the_bytes_that_it_takes_in_a_message(character: str, size: int) -> None:
    count = (MAX_LINK_BYTES - 1) // size
    assert validate_link("/" + character * count) is None
    assert validate_link("/" + character * (count + 1)) is not None


@given(st.text(st.sampled_from("/\\:@ \t\n.#?ahtpsjv0[]"), max_size=30))
def test_every_accepted_link_uses_http(link: str) -> None:
    if validate_link(link) is None:
        notification = build_notification(
            replace(MESSAGE, action_url=link), CATALOG, WORDING, notification_id="n1", now=NOW
        )
        shown = WORDING.render(CATALOG.get_template("MESSAGE"), notification, "en", "UTC")
        own = link.startswith("/")
        assert shown.url.lower().startswith("https://shop.example/" if own else ("http://", "https://"))
