"""The texts of the commerce pack: with the variables of the shop's events, in English and German, for every channel."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from tidings.channels.email.layout import MailBody, MailLayout
from tidings.channels.email.settings import EmailSettings
from tidings.channels.sms.segments import measure_text
from tidings.flow.accept.validation import build_notification
from tidings.flow.catalog import Catalog
from tidings.model.audience import users
from tidings.model.request import NotifyRequest
from tidings.model.template import RenderedMessage
from tidings.packs import core
from tidings.packs.commerce import pack
from tidings.rendering.minijinja_renderer import MinijinjaRenderer

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CATALOG = Catalog.from_packs([core.pack, pack], channels=[], known_channels=[])
RENDERER = MinijinjaRenderer(CATALOG.filters, "https://shop.example")
#: template → variables, as in the events of the shop
VARIABLES: Mapping[str, Mapping[str, object]] = {template.code: template.samples[0] for template in pack.templates}


def render(code: str, locale: str, channel: str, variables: Mapping[str, object]) -> RenderedMessage:
    request = NotifyRequest(code, users("ana"), variables)
    notification = build_notification(request, CATALOG, RENDERER, notification_id="n1", now=NOW)
    return RENDERER.render(CATALOG.get_template(code), notification, locale, "UTC", channel=channel)


@pytest.mark.parametrize("locale", ["en", "de"])
@pytest.mark.parametrize("code", VARIABLES)
def test_every_template_has_a_text_for_each_channel(code: str, locale: str) -> None:
    for channel, fields in (("email", set()), ("sms", {"text"}), ("inapp", set()), ("webpush", set())):
        message = render(code, locale, channel, VARIABLES[code])
        assert message.lang == locale
        assert message.title
        assert message.body
        assert set(message.fields) == fields
        assert all(message.fields.values())


@pytest.mark.parametrize("code", VARIABLES)
def test_a_text_message_has_at_most_two_segments(code: str) -> None:
    for locale in ("en", "de"):
        assert measure_text(render(code, locale, "sms", VARIABLES[code]).fields["text"]).segments <= 2


@pytest.mark.parametrize(
    ("code", "locale", "body"),
    [
        ("ORDER_CREATED", "en-IN", "Thank you for your order, Ana. The total is ₹4,999.00."),
        ("PAYMENT_CAPTURED", "de", "Wir haben 4.999,50\u00a0€ für Bestellung ORD-12345 erhalten."),
        ("PAYMENT_CAPTURED", "de-CH", "Wir haben EUR\u00a04’999.50 für Bestellung ORD-12345 erhalten."),
        ("LOW_STOCK_ALERT", "de", "Noch 1.500, Warnung ab 2.000."),
        ("LOW_STOCK_ALERT", "en", "1,500 left, alert at 2,000."),
    ],
)
def test_money_and_quantities_are_shown_in_the_readers_format(code: str, locale: str, body: str) -> None:
    assert render(code, locale, "inapp", VARIABLES[code]).body == body


def lay_out(code: str, locale: str, variables: Mapping[str, object]) -> MailBody:
    category = CATALOG.get_category(CATALOG.get_template(code).category)
    return MailLayout(EmailSettings()).render(render(code, locale, "email", variables), category)


def test_names_are_escaped_in_an_email_and_optional() -> None:
    hostile = {**VARIABLES["ORDER_CREATED"], "userName": "<b>Ana"}
    assert "Thank you for your order, &lt;b&gt;Ana." in "".join(lay_out("ORDER_CREATED", "en", hostile).html.pieces)
    nameless = {name: value for name, value in hostile.items() if name != "userName"}
    assert "Thank you for your order. The total" in "".join(lay_out("ORDER_CREATED", "en", nameless).html.pieces)


@pytest.mark.parametrize("locale", ["en", "de"])
@pytest.mark.parametrize("code", VARIABLES)
def test_an_email_has_title_text_and_a_button(code: str, locale: str) -> None:
    message = render(code, locale, "email", VARIABLES[code])
    mail = lay_out(code, locale, VARIABLES[code])
    for shown in (message.title, message.body, f'href="{message.url}"'):
        assert shown in "".join(mail.html.pieces)
    assert message.url in mail.text.pieces
