"""Tracked links: off by default, signed, never to another destination than the message had."""

import email
import email.policy
import re
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from html import unescape

import msgspec
import pytest

from tidings.channels.email.composer import EmailComposer, EmailPayload
from tidings.channels.email.settings import EmailSettings
from tidings.channels.email.tracking import MailLink, sign_link, split_links, verify_link
from tidings.model.template import Category, MessageAction, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.testing.clock import START, FrozenClock

SECRET = "s" * 32
URL = "https://lumen.example/events/42?a=1&b=2"
CONTENT = RenderedMessage(
    "Jazz starts later", "It begins at 20:00.", URL, "en", actions=(MessageAction("open", "View", URL),)
)
NEWS = Category("NEWS", "News")
CONTEXT = ComposeContext("n-1", "d-1", "ann", NEWS, "event:42", START + timedelta(days=1), "UTC")
MJML = (
    '<mj-button href="https://lumen.example/one">One</mj-button>'
    '<mj-button rel="notrack" href="https://lumen.example/two">Two</mj-button>'
    '<mj-text><a rel="nofollow notrack" href="https://lumen.example/three">Three</a>'
    '<a href="mailto:host@lumen.example">Write</a> <a href="https://lumen.example/four">Four</a></mj-text>'
)


def compose(content: RenderedMessage = CONTENT, context: ComposeContext = CONTEXT, **settings: object) -> EmailMessage:
    base = EmailSettings.model_validate(
        {"smtp_urls": "smtp://localhost", "sender": "Lumen <news@lumen.example>", **settings}
    )
    composer = EmailComposer(base, public_url="https://tidings.example/", secret_key=SECRET, clock=FrozenClock())
    payload = msgspec.msgpack.decode(composer.compose(content, context), type=EmailPayload)
    message = email.message_from_bytes(payload.content, policy=email.policy.default.clone(raise_on_defect=True))
    assert isinstance(message, EmailMessage)
    return message


def content_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content


def find_tracked(html: str, attribute: str) -> list[MailLink | None]:
    tokens = re.findall(rf'{attribute}="https://tidings\.example/l/([^"]+)"', html)
    return [verify_link(SECRET, unescape(token)) for token in tokens]


def test_c63_nothing_is_tracked_unless_its_category_is_listed() -> None:
    for message in (compose(), compose(track_clicks=("OTHER",), track_opens=("OTHER",))):
        html = content_of(message, "html")
        assert "/l/" not in html
        assert unescape(html).count(URL) == 1


def test_c63_links_and_opens_are_switched_apart() -> None:
    clicks = content_of(compose(track_clicks=("NEWS",)), "html")
    opens = content_of(compose(track_opens=("NEWS",)), "html")
    sent_at = int(START.timestamp())
    assert find_tracked(clicks, "href") == [MailLink("d-1", "ann", "NEWS", sent_at, URL, 1, 1)]
    assert find_tracked(clicks, "src") == []
    assert (find_tracked(opens, "href"), find_tracked(opens, "src")) == ([], [MailLink("d-1", "ann", "NEWS", sent_at)])


def test_c63_a_link_can_opt_out() -> None:
    content = replace(CONTENT, fields={"mjml": MJML})
    html = content_of(compose(content, track_clicks=("NEWS",)), "html")
    tracked = [(link.url, link.number, link.total) for link in find_tracked(html, "href") if link is not None]
    assert tracked == [("https://lumen.example/one", 1, 2), ("https://lumen.example/four", 2, 2)]
    for kept in ("https://lumen.example/two", "https://lumen.example/three", "mailto:host@lumen.example"):
        assert f'href="{kept}"' in html


def test_c63_unsubscribing_and_the_text_part_are_never_tracked() -> None:
    message = compose(track_clicks=("NEWS",), track_opens=("NEWS",))
    assert "/l/" not in content_of(message, "plain")
    assert URL in content_of(message, "plain")
    assert 'href="https://tidings.example/unsubscribe/' in content_of(message, "html")
    assert "/unsubscribe/" in message["List-Unsubscribe"]


@pytest.mark.parametrize("change", ["url", "user_id", "total"])
def test_c63_a_token_leads_to_no_other_destination(change: str) -> None:
    link = MailLink("d-1", "ann", "NEWS", 1, URL, 1, 1)
    token = sign_link(SECRET, link)
    assert verify_link(SECRET, token) == link
    other = msgspec.structs.replace(link, **{change: 9 if change == "total" else "https://evil.example/"})
    mac_length = 32
    forged = token[:mac_length] + sign_link(SECRET, other)[mac_length:]
    assert verify_link(SECRET, forged) is None
    assert verify_link("t" * 32, token) is None


def test_a_destination_that_is_too_long_stays_a_plain_link() -> None:
    html = f'<a href="https://x.example/{"a" * 1500}">x</a><a href="https://y.example/">y</a></body>'
    assert split_links(html)[1] == ("https://y.example/",)
