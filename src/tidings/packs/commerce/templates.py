"""The categories and templates of the commerce pack, in English and German, with texts of their own for SMS.

E-mail shows title, body and a button in the default layout. Codes and variables are those of the shop's events: a
caller may also send a template directly, with these variables.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tidings.model.priority import Priority
from tidings.model.template import Category, Template, TemplateText

CATEGORIES = (
    Category("ORDER_UPDATES", "News about my orders"),
    Category("PAYMENT_UPDATES", "Payments of my orders"),
    Category("LOW_STOCK_ALERT", "Products with low stock"),
    Category("USER_WELCOME", "Welcome to new users"),
)

_ORDER_URL = "{% if orderId %}/orders/{{ orderId | urlencode }}{% else %}/orders{% endif %}"
_NAME = "{% if userName %}, {{ userName }}{% endif %}"
_TOTAL = "{{ [total, currency] | money }}"
_AMOUNT = "{{ [amount, currency] | money }}"


_ORDER_SAMPLE = {"orderId": "5f2c", "orderNumber": "ORD-12345", "userName": "Ana"}
_SAMPLES: Mapping[str, Mapping[str, object]] = {
    "ORDER_CREATED": {**_ORDER_SAMPLE, "total": 4999, "currency": "INR"},
    "ORDER_SHIPPED": {**_ORDER_SAMPLE, "carrier": "DHL", "trackingNumber": "T-1"},
    "ORDER_DELIVERED": _ORDER_SAMPLE,
    "PAYMENT_CAPTURED": {**_ORDER_SAMPLE, "amount": "4999.50", "currency": "EUR"},
    "PAYMENT_FAILED": {**_ORDER_SAMPLE, "amount": "4999.50", "currency": "EUR", "reason": "card expired"},
    "LOW_STOCK_ALERT": {"productName": "Premium Widget", "currentStock": 1500, "threshold": 2000},
    "USER_WELCOME": {"userName": "Alice"},
}
#: long values, in an alphabet that SMS sends in half as many characters
_LONG: Mapping[str, object] = {
    "orderNumber": "ORD-2026-11-0000012345",
    "userName": "Aleksandra Wiśniewska-Kowalczyk",
    "productName": "Ekspres ciśnieniowy ze spieniaczem, stal szczotkowana",
    "trackingNumber": "00340434161094042557",
}


@dataclass(frozen=True, slots=True)
class _Text:
    """The text of a message in one language."""

    title: str
    body: str
    #: text of an SMS, short enough for few segments
    sms: str


def _build_template(
    code: str,
    category: str,
    priority: Priority,
    texts: Mapping[str, _Text],
    *,
    defaults: Mapping[str, object] | None = None,
    url: str = _ORDER_URL,
) -> Template:
    """Return a template. defaults: optional variable → its value, besides `userName`."""
    optional = {"userName": None, **(defaults or {})}
    return Template(
        code=code,
        category=category,
        priority=priority,
        texts={language: TemplateText(text.title, text.body) for language, text in texts.items()},
        optional=frozenset(optional),
        defaults=optional,
        url=url,
        contents={"sms": {language: {"text": text.sms} for language, text in texts.items()}},
        samples=(_SAMPLES[code], {**_SAMPLES[code], **_LONG}),
    )


_CREATED = {
    "en": _Text(
        "Order {{ orderNumber }} received",
        f"Thank you for your order{_NAME}. The total is {_TOTAL}.",
        f"Order {{{{ orderNumber }}}} received, total {_TOTAL}.",
    ),
    "de": _Text(
        "Bestellung {{ orderNumber }} eingegangen",
        f"Vielen Dank für Ihre Bestellung{_NAME}. Die Summe beträgt {_TOTAL}.",
        f"Bestellung {{{{ orderNumber }}}} eingegangen, Summe {_TOTAL}.",
    ),
}
_TRACKING = {
    "en": "{% if trackingNumber %} Tracking number: {{ trackingNumber }}.{% endif %}",
    "de": "{% if trackingNumber %} Sendungsnummer: {{ trackingNumber }}.{% endif %}",
}
_SHIPPED = {
    "en": _Text(
        "Order {{ orderNumber }} shipped",
        "Your order is on its way{% if carrier %} with {{ carrier }}{% endif %}." + _TRACKING["en"],
        "Order {{ orderNumber }} is on its way." + _TRACKING["en"],
    ),
    "de": _Text(
        "Bestellung {{ orderNumber }} versandt",
        "Ihre Bestellung ist unterwegs{% if carrier %} mit {{ carrier }}{% endif %}." + _TRACKING["de"],
        "Bestellung {{ orderNumber }} ist unterwegs." + _TRACKING["de"],
    ),
}
_DELIVERED = {
    "en": _Text(
        "Order {{ orderNumber }} delivered",
        "Your order has been delivered.",
        "Order {{ orderNumber }} has been delivered.",
    ),
    "de": _Text(
        "Bestellung {{ orderNumber }} zugestellt",
        "Ihre Bestellung wurde zugestellt.",
        "Bestellung {{ orderNumber }} wurde zugestellt.",
    ),
}
_CAPTURED = {
    "en": _Text(
        "Payment received",
        f"We received {_AMOUNT} for order {{{{ orderNumber }}}}.",
        f"We received {_AMOUNT} for order {{{{ orderNumber }}}}.",
    ),
    "de": _Text(
        "Zahlung eingegangen",
        f"Wir haben {_AMOUNT} für Bestellung {{{{ orderNumber }}}} erhalten.",
        f"{_AMOUNT} für Bestellung {{{{ orderNumber }}}} erhalten.",
    ),
}
_FAILED = {
    "en": _Text(
        "Payment failed",
        f"{_AMOUNT} for order {{{{ orderNumber }}}} could not be charged"
        "{% if reason %} ({{ reason }}){% endif %}. Please choose another way to pay.",
        f"Payment of {_AMOUNT} for order {{{{ orderNumber }}}} failed. Please choose another way to pay.",
    ),
    "de": _Text(
        "Zahlung fehlgeschlagen",
        f"{_AMOUNT} für Bestellung {{{{ orderNumber }}}} konnten nicht abgebucht werden"
        "{% if reason %} ({{ reason }}){% endif %}. Bitte wählen Sie eine andere Zahlungsart.",
        f"Zahlung von {_AMOUNT} für Bestellung {{{{ orderNumber }}}} fehlgeschlagen. "
        "Bitte wählen Sie eine andere Zahlungsart.",
    ),
}
_STOCK = "{{ currentStock | quantity }}"
_THRESHOLD = "{{ threshold | quantity }}"
_LOW_STOCK = {
    "en": _Text(
        "Low stock: {{ productName }}",
        f"{_STOCK} left, alert at {_THRESHOLD}.",
        f"Low stock: {{{{ productName }}}}, {_STOCK} left.",
    ),
    "de": _Text(
        "Geringer Bestand: {{ productName }}",
        f"Noch {_STOCK}, Warnung ab {_THRESHOLD}.",
        f"Geringer Bestand: {{{{ productName }}}}, noch {_STOCK}.",
    ),
}
_WELCOME = {
    "en": _Text(
        f"Welcome{_NAME}!",
        "Your account is ready.",
        "Welcome! Your account is ready.",
    ),
    "de": _Text(
        f"Willkommen{_NAME}!",
        "Ihr Konto ist bereit.",
        "Willkommen! Ihr Konto ist bereit.",
    ),
}

_ORDER = {"orderId": None}
_SHIPMENT = {**_ORDER, "carrier": None, "trackingNumber": None}

TEMPLATES = (
    _build_template("ORDER_CREATED", "ORDER_UPDATES", Priority.HIGH, _CREATED, defaults=_ORDER),
    _build_template("ORDER_SHIPPED", "ORDER_UPDATES", Priority.HIGH, _SHIPPED, defaults=_SHIPMENT),
    _build_template("ORDER_DELIVERED", "ORDER_UPDATES", Priority.NORMAL, _DELIVERED, defaults=_ORDER),
    _build_template("PAYMENT_CAPTURED", "PAYMENT_UPDATES", Priority.NORMAL, _CAPTURED, defaults=_ORDER),
    _build_template("PAYMENT_FAILED", "PAYMENT_UPDATES", Priority.URGENT, _FAILED, defaults={**_ORDER, "reason": None}),
    _build_template(
        "LOW_STOCK_ALERT",
        "LOW_STOCK_ALERT",
        Priority.URGENT,
        _LOW_STOCK,
        defaults={"sku": None},
        url="{% if sku %}/inventory/{{ sku | urlencode }}{% else %}/inventory{% endif %}",
    ),
    _build_template("USER_WELCOME", "USER_WELCOME", Priority.NORMAL, _WELCOME, url="/"),
)
