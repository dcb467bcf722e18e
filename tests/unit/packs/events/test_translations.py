"""The pack's templates, rendered in every language."""

from datetime import UTC, datetime

import pytest

from tidings.flow.catalog import Catalog
from tidings.model.audience import everyone
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.template import RenderedMessage
from tidings.packs.events import pack
from tidings.rendering.minijinja_renderer import MinijinjaRenderer

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl")
CATALOG = Catalog.from_packs([pack], channels=[], known_channels=[])
WORDING = MinijinjaRenderer(CATALOG.filters, "https://tickets.example")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TIME = {"field": "startDate", "kind": "instant", "old": "2026-11-22T17:00:00Z", "new": "2026-11-22T18:30:00Z"}
VENUE = {"field": "venue", "kind": "text", "old": "Hall A", "new": None}
STATUS = {"field": "status", "kind": "status", "old": "ACTIVE", "new": "CANCELLED"}
#: the required variables of each template
REQUIRED = {
    "NEW_EVENT": {"eventId", "eventTitle", "startDate"},
    "EVENT_TIME_CHANGE": {"eventId", "eventTitle", "changes"},
    "EVENT_VENUE_CHANGE": {"eventId", "eventTitle", "changes"},
    "EVENT_CANCELLATION": {"eventId", "eventTitle", "startDate"},
    "EVENT_STATUS_CHANGE": {"eventId", "eventTitle", "changes"},
    "EVENT_REMINDER": {"eventId", "eventTitle", "startDate"},
    "EVENT_MANUAL": {"title", "body"},
}
VALUES: dict[str, object] = {
    "eventId": "e 1",
    "eventTitle": "Jazz night",
    "startDate": "2026-11-22T18:30:00Z",
    "changes": [TIME, VENUE],
    "title": "Doors",
    "body": "Open at 17:00",
}


def shown(code: str, locale: str = "en", **variables: object) -> RenderedMessage:
    template = CATALOG.get_template(code)
    given = {name: VALUES[name] for name in REQUIRED[code]} | variables
    notification = Notification(
        id="n1",
        template_code=code,
        template_version=template.version,
        category=template.category,
        audience=everyone(),
        variables=given,
        priority=Priority.NORMAL,
        channels=(),
        action_url=None,
        action_text=None,
        send_at=NOW,
        expires_at=NOW,
        created_at=NOW,
    )
    return WORDING.render(template, notification, locale, "Europe/Berlin")


def test_categories_and_templates_have_the_built_in_names() -> None:
    assert set(CATALOG.categories) == set(CATALOG.templates) == set(REQUIRED)
    assert [code for code, category in CATALOG.categories.items() if category.mandatory] == ["EVENT_CANCELLATION"]
    assert not any(category.opt_in for category in CATALOG.categories.values())


@pytest.mark.parametrize(
    ("code", "priority"),
    [
        ("NEW_EVENT", Priority.NORMAL),
        ("EVENT_TIME_CHANGE", Priority.HIGH),
        ("EVENT_VENUE_CHANGE", Priority.HIGH),
        ("EVENT_CANCELLATION", Priority.URGENT),
        ("EVENT_STATUS_CHANGE", Priority.NORMAL),
        ("EVENT_REMINDER", Priority.HIGH),
        ("EVENT_MANUAL", Priority.HIGH),
    ],
)
def test_each_template_has_its_priority(code: str, priority: Priority) -> None:
    assert CATALOG.get_template(code).priority is priority


@pytest.mark.parametrize("code", sorted(REQUIRED))
def test_the_required_variables_are_those_of_the_texts(code: str) -> None:
    assert WORDING.required_variables(CATALOG.get_template(code)) == REQUIRED[code]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", sorted(set(REQUIRED) - {"EVENT_MANUAL"}))
def test_every_template_has_every_language(code: str, language: str) -> None:
    content = shown(code, language)
    assert content.lang == language
    assert "Jazz night" in content.title
    assert "2026" in content.body or "22" in content.body


def test_a_time_change_in_german() -> None:
    content = shown("EVENT_TIME_CHANGE", "de-CH")
    assert content.title == "Jazz night: neue Zeit"
    assert content.body == "Beginn: So., 22. Nov. 2026, 18:00 → 19:30\nOrt: Hall A → noch kein Ort"
    assert content.url == "https://tickets.example/events/e%201"


def test_a_cancellation_lists_other_changes_only_if_there_are_any() -> None:
    alone = shown("EVENT_CANCELLATION", changes=[STATUS])
    assert alone.title == "Cancelled: Jazz night"
    assert alone.body == "It will not take place. It was planned for Sun, 22 Nov 2026, 19:30."
    assert shown("EVENT_CANCELLATION", changes=[STATUS, VENUE]).body.splitlines()[1:] == [
        "Status: going ahead → cancelled",
        "Venue: Hall A → no venue yet",
    ]


def test_a_new_event_names_its_venue_if_it_has_one() -> None:
    assert shown("NEW_EVENT", venue="Hall A").body == "Sun, 22 Nov 2026, 19:30 · Hall A"
    assert shown("NEW_EVENT", venue=None).body == shown("NEW_EVENT").body == "Sun, 22 Nov 2026, 19:30"


def test_the_host_product_may_name_its_own_page() -> None:
    assert shown("EVENT_TIME_CHANGE", eventUrl="/demo/?event=e1").url == "https://tickets.example/demo/?event=e1"


def test_a_message_without_an_event_opens_the_front_page() -> None:
    assert shown("EVENT_MANUAL").url == "https://tickets.example/"
    assert shown("EVENT_MANUAL", eventId="e1").url == "https://tickets.example/events/e1"


def test_texts_of_users_are_not_evaluated_as_templates() -> None:
    content = shown("EVENT_MANUAL", title="{{ 7 * 7 }}", body="{% for i in range(9999999) %}x{% endfor %}")
    assert (content.title, content.body) == ("{{ 7 * 7 }}", "{% for i in range(9999999) %}x{% endfor %}")
