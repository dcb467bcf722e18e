"""The composed message: its headers, its parts, and what a recipient sees."""

import email
import email.policy
import json
import quopri
import re
from dataclasses import replace
from datetime import timedelta
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import mrml
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tidings.channels.email import layout
from tidings.channels.email.composer import EmailComposer, EmailPayload
from tidings.channels.email.layout import MAX_HTML_BYTES, find_unknown_elements
from tidings.channels.email.mail_text import UNSUBSCRIBE_MARK, MailText
from tidings.channels.email.mime import Part, QuotedPrintable, write_body
from tidings.channels.email.settings import EmailSettings
from tidings.channels.email.unsubscribe import Unsubscription, verify_unsubscription
from tidings.errors import ValidationFailed
from tidings.model.template import Category, MessageAction, RenderedMessage
from tidings.ports.channel import ComposeContext
from tidings.testing.clock import START, FrozenClock

SECRET = "s" * 32
SETTINGS = EmailSettings(
    smtp_urls="smtp://localhost:25",
    sender="Lumen Events <news@lumen.example>",
    postal_address="Lindenstraße 12, Berlin",
)
NEWS = Category("event_updates", "Changes of events")
CONTENT = RenderedMessage(
    "Jazz starts later",
    "It begins at 20:00.\n\nVenue: Gate 3\nDoors: 19:00",
    "https://lumen.example/events/42",
    "en",
    actions=(MessageAction("open", "View the event", "https://lumen.example/events/42?a=1&b=2"),),
)
CONTEXT = ComposeContext("n-1", "d-1", "ann", NEWS, "event:42", START + timedelta(days=1), "Europe/Berlin")


def make_composer(**changes: Any) -> EmailComposer:
    settings = SETTINGS.model_copy(update=changes)
    return EmailComposer(settings, public_url="https://tidings.example/", secret_key=SECRET, clock=FrozenClock())


def compose(
    content: RenderedMessage = CONTENT, context: ComposeContext = CONTEXT, composer: EmailComposer | None = None
) -> EmailMessage:
    payload = msgspec.msgpack.decode((composer or make_composer()).compose(content, context), type=EmailPayload)
    assert payload.content.isascii()
    assert max(len(line) for line in payload.content.split(b"\r\n")) <= 998
    assert b"\n" not in payload.content.replace(b"\r\n", b"")
    # a defect, such as a missing boundary, raises
    message = email.message_from_bytes(payload.content, policy=email.policy.default.clone(raise_on_defect=True))
    assert isinstance(message, EmailMessage)
    return message


def text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    text: str = part.get_content()
    return text


def test_c61_a_message_has_an_html_and_a_text_part_with_the_same_content() -> None:
    message = compose()
    html, text = text_of(message, "html"), text_of(message, "plain")
    for wording in ("Jazz starts later", "It begins at 20:00.", "View the event", "Lindenstraße 12, Berlin"):
        assert wording in html
        assert wording in text
    assert "View the event: https://lumen.example/events/42?a=1&b=2" in text
    assert "https://lumen.example/events/42?a=1&amp;b=2" in html
    assert "Venue: Gate 3\nDoors: 19:00" in text.replace("\r\n", "\n")
    assert len(html.encode()) < MAX_HTML_BYTES / 4


def test_c60_the_message_id_is_stable_per_delivery() -> None:
    ids = [compose(context=replace(CONTEXT, delivery_id=name))["Message-ID"] for name in ("d-1", "d-1", "d-2")]
    assert ids == ["<d-1@lumen.example>", "<d-1@lumen.example>", "<d-2@lumen.example>"]


def test_c60_messages_about_one_subject_form_a_thread_per_user() -> None:
    first, second = compose(), compose(context=replace(CONTEXT, notification_id="n-2", delivery_id="d-2"))
    assert first["References"] == second["References"] == second["In-Reply-To"]
    assert compose(context=replace(CONTEXT, user_id="bob"))["References"] != first["References"]
    alone = compose(context=replace(CONTEXT, collapse_key="n-1"))
    assert alone["References"] is None
    assert alone["In-Reply-To"] is None


def test_c51_an_optional_category_can_be_unsubscribed_with_one_click() -> None:
    message = compose()
    (url,) = re.findall(r"<(\S+)>", message["List-Unsubscribe"])
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert url.startswith("https://tidings.example/unsubscribe/")
    token = url.rpartition("/")[2]
    assert verify_unsubscription(SECRET, token) == Unsubscription("ann", "event_updates")
    assert url in text_of(message, "plain")
    assert url in text_of(message, "html")


def test_c18_a_category_that_is_mandatory_elsewhere_has_the_link() -> None:
    message = compose(context=replace(CONTEXT, category=replace(NEWS, mandatory=("webpush",))))
    assert message["List-Unsubscribe"] is not None


def test_a_long_user_id_keeps_the_unsubscribe_link_in_one_piece() -> None:
    message = compose(context=replace(CONTEXT, user_id="ü" * 100))
    (url,) = re.findall(r"<(\S+)>", message["List-Unsubscribe"])
    assert verify_unsubscription(SECRET, url.rpartition("/")[2]) == Unsubscription("ü" * 100, "event_updates")


@pytest.mark.parametrize("mandatory", [True, ("email",)])
def test_c18_a_mandatory_category_has_no_unsubscribe_link(mandatory: bool | tuple[str]) -> None:
    message = compose(context=replace(CONTEXT, category=replace(NEWS, mandatory=mandatory)))
    assert message["List-Unsubscribe"] is None
    assert message["List-Unsubscribe-Post"] is None
    assert "nsubscribe" not in text_of(message, "plain") + text_of(message, "html")


def test_no_out_of_office_reply_is_provoked() -> None:
    assert compose()["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("news@lumen.example", "news@lumen.example"),
        ('"Lumen, Inc." <news@lumen.example>', '"Lumen, Inc." <news@lumen.example>'),
        ("Café Lüm <news@lümen.example>", "Café Lüm <news@xn--lmen-0ra.example>"),
    ],
)
def test_the_sender_may_have_any_name_and_an_international_domain(sender: str, expected: str) -> None:
    assert str(compose(composer=make_composer(sender=sender))["From"]) == expected


def test_a_subject_of_the_template_replaces_the_title() -> None:
    content = replace(CONTENT, fields={"subject": "Später: Jazz 🎷 — " + "lang " * 20})
    assert compose(content)["Subject"] == ("Später: Jazz 🎷 — " + "lang " * 20).strip()


HEADERS = set(compose().keys())


@given(
    text=st.text(max_size=60).map(lambda text: f"a{text}b")
    | st.sampled_from(
        ["x\r\nBcc: eve@evil.example", "x\n\nbody", "x\r\n.\r\nMAIL FROM:<a@b>", "\x00\x0b\x85\u2028Bcc: e"]
    ),
    field=st.sampled_from(["subject", "title", "body", "sender", "key", "delivery", "lang"]),
)
def test_no_text_adds_a_header(text: str, field: str) -> None:
    content, context, composer = CONTENT, CONTEXT, COMPOSER
    match field:
        case "subject":
            content = replace(CONTENT, fields={"subject": text})
        case "title" | "body":
            content = replace(CONTENT, **{field: text})  # type: ignore[arg-type]  # both are texts
        case "key":
            context = replace(CONTEXT, collapse_key=text)
        case "sender":
            composer = make_composer(sender="news@lumen.example", brand_name=text)
    message = compose(content, context, composer)
    assert set(message.keys()) == HEADERS
    assert len(message.get_all("Subject", [])) == 1


COMPOSER = make_composer()


@pytest.mark.parametrize(
    "markup", ['"><img src=x onerror=y>', "</title><script>x</script>", "--><mj-raw><b>", "]]>&lt;b&gt;"]
)
def test_text_cannot_add_markup(markup: str) -> None:
    text = f"{markup} {{{{ 7*7 }}}}"
    content = replace(
        CONTENT, title=text, body=f"{text}\n{text}", actions=(MessageAction("open", text, "https://x/?" + text),)
    )
    context = replace(CONTEXT, category=replace(NEWS, title=text))
    message = compose(content, context, make_composer(brand_name=text, postal_address=text, logo_url="https://x/l.png"))
    html = text_of(message, "html")
    assert not re.search(r"<(script|b>|img src=x|mj-)", html)
    assert html.count("<img") == 1
    assert "{{ 7*7 }}" in html
    assert markup in text_of(message, "plain")


def test_messages_of_one_shape_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile_and_record(source: str) -> Any:
        compiled.append(source)
        return mrml.to_html(source)

    monkeypatch.setattr(layout, "mrml", SimpleNamespace(to_html=compile_and_record))
    composer = make_composer()
    shown = [
        text_of(compose(replace(CONTENT, title=f"Order {number}"), composer=composer), kind)
        for number in range(3)
        for kind in ("html", "plain")
    ]
    assert len(compiled) == 1
    assert [re.findall(r"Order (\d)", text)[0] for text in shown] == ["0", "0", "1", "1", "2", "2"]
    compose(replace(CONTENT, body="One paragraph only."), composer=composer)
    assert len(compiled) == 2, "another shape"


def test_c61_links_of_the_text_part_carry_their_text_and_url() -> None:
    mjml = (
        '<mj-text>Read the <a href="https://lumen.example/faq?a=1&amp;b=2">questions</a>.</mj-text>'
        '<mj-button href="https://lumen.example/buy">Buy a ticket</mj-button>'
    )
    text = text_of(compose(replace(CONTENT, fields={"mjml": mjml})), "plain")
    assert "Read the questions (https://lumen.example/faq?a=1&b=2)." in text
    assert "Buy a ticket: https://lumen.example/buy" in text


def test_c61_html_that_mail_programs_clip_is_warned_of_once() -> None:
    composer = make_composer()
    with capture_logs() as events:
        for number in range(2):
            compose(replace(CONTENT, body=f"{number}" + "&" * 25_000), composer=composer)
        compose(composer=composer)
    [warning] = events
    assert (warning["event"], warning["log_level"], warning["limit"]) == ("email_html_clipped", "warning", 102_000)
    assert warning["bytes"] > 102_000


def test_a_url_is_shown_once_if_it_is_its_own_label() -> None:
    url = "https://lumen.example/"
    text = text_of(compose(replace(CONTENT, actions=(MessageAction("open", url, url),))), "plain")
    assert text.count(url) == 1


def test_a_text_in_pieces_is_encoded_as_one_text() -> None:
    pieces = ("é" * 500 + " \r\nlast line ", UNSUBSCRIBE_MARK, " and more " * 60)
    text = MailText(pieces)
    encoded = write_body([Part("text/plain", QuotedPrintable(text.encode("https://x.example/?a=1")))], [], "b")
    assert max(len(line) for line in encoded.split(b"\r\n")) <= 76
    [part] = email.message_from_bytes(encoded, policy=email.policy.default).iter_parts()
    assert part.get_content().removesuffix("\r\n") == text.join("https://x.example/?a=1")


@given(st.lists(st.sampled_from([".", "..", "a", "é", "\n", "\r", " ", "=", "x" * 73, "." * 80]), max_size=12))
def test_c57_no_line_begins_with_a_dot_and_every_line_ends_with_crlf(words: list[str]) -> None:
    text = MailText(("".join(words), UNSUBSCRIBE_MARK, "".join(reversed(words))))
    lines = text.encode("https://x.example/").split(b"\r\n")
    assert not [line for line in lines if line.startswith(b".") or b"\n" in line or b"\r" in line]
    # 76, and the `=` between two pieces
    assert max(map(len, lines)) <= 77
    shown = quopri.decodestring(b"\r\n".join(lines)).decode()
    assert shown.split() == re.sub(r"\r\n|\r|\n", "\n", text.join("https://x.example/")).split()


def test_no_remote_style_sheet_is_loaded() -> None:
    mjml = '<mj-text><link rel="stylesheet" href="http://127.0.0.1:9/x.css">Hello</mj-text>'
    assert "Hello" in text_of(compose(replace(CONTENT, fields={"mjml": mjml})), "html")


def test_a_template_may_bring_its_own_content_or_its_own_document() -> None:
    part = '<mj-text>Hi <b>Ann</b>, see <a href="https://x.example/a">the list</a></mj-text>'
    document = f"<mjml><mj-body><mj-section><mj-column>{part}</mj-column></mj-section></mj-body></mjml>"
    for mjml in (part, document):
        message = compose(replace(CONTENT, fields={"mjml": mjml}))
        assert "Hi Ann, see the list (https://x.example/a)" in text_of(message, "plain")
        assert "/unsubscribe/" in text_of(message, "plain")
        assert "/unsubscribe/" in text_of(message, "html")
        assert "Jazz starts later" not in text_of(message, "plain")


@pytest.mark.parametrize("mjml", ["<mj-txt>Hello</mj-txt>", '<mj-include path="/etc/passwd" />', "<mj-text>open"])
def test_invalid_mjml_is_refused(mjml: str) -> None:
    with pytest.raises(ValidationFailed):
        compose(replace(CONTENT, fields={"mjml": mjml}))


def test_unknown_elements_are_found() -> None:
    assert find_unknown_elements("<mj-text/><mj-Txt/><mj-fancy>") == ["mj-fancy", "mj-txt"]


def test_the_layout_is_mirrored_for_right_to_left_languages() -> None:
    html = text_of(compose(replace(CONTENT, lang="ar", direction="rtl")), "html")
    assert 'dir="rtl"' in html
    assert "text-align:right" in html


def read_calendar(**changes: object) -> tuple[str, str]:
    event = {
        "uid": "event-42@lumen.example",
        "sequence": 1,
        "summary": "Jazz; open, air",
        "start": "2026-12-01T20:00:00+01:00",
        "end": "2026-12-01T22:00:00+01:00",
        "location": "Gate 3",
    } | changes
    message = compose(replace(CONTENT, fields={"calendar": json.dumps(event)}))
    (part,) = message.iter_attachments()
    assert part.get_filename() == "event.ics"
    content: str = part.get_content()
    return part["Content-Type"].params["method"], content


def test_a_calendar_attachment_moves_and_cancels_with_its_event() -> None:
    method, first = read_calendar()
    assert method == "PUBLISH"
    assert {"UID:event-42@lumen.example", "SEQUENCE:1", "DTSTART:20261201T190000Z"} <= set(first.splitlines())
    _, moved = read_calendar(sequence=2, start="2026-12-01T21:00:00+01:00")
    assert {"UID:event-42@lumen.example", "SEQUENCE:2", "DTSTART:20261201T200000Z"} <= set(moved.splitlines())
    method, cancelled = read_calendar(sequence=3, status="CANCELLED")
    assert method == "CANCEL"
    assert {"METHOD:CANCEL", "STATUS:CANCELLED", "SEQUENCE:3"} <= set(cancelled.splitlines())


@pytest.mark.parametrize(
    "changes", [{"start": "2026-12-01T20:00:00"}, {"sequence": -1}, {"uid": ""}, {"summary": None}]
)
def test_an_invalid_calendar_field_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationFailed, match="calendar"):
        read_calendar(**changes)
