"""The catalog rejects contradictory declarations of packs, and audiences that are not as declared."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tidings.errors import ConfigError, ValidationFailed
from tidings.flow.catalog import MAX_EXPLICIT_USERS, Catalog
from tidings.model.audience import (
    Audience,
    Complement,
    NamedSet,
    Union,
    attribute,
    city,
    engaged,
    everyone,
    near,
    ticket_holders,
    topic,
    users,
)
from tidings.model.plan_options import DigestOptions, PlanOptions
from tidings.model.template import Category, Template
from tidings.packs.core import pack
from tidings.ports.pack import Pack

TEMPLATE = pack.templates[0]


def of(*packs: Pack) -> Catalog:
    return Catalog.from_packs(packs, channels=("webpush",), known_channels=("webpush",))


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (Pack("x", categories=(Category("MESSAGE", "Again"),)), "two packs declare the category MESSAGE"),
        (Pack("x", categories=(Category("X", "X", mandatory=("fax",)),)), r"category X is mandatory on \['fax'\]"),
        (Pack("x", templates=(TEMPLATE,)), "two packs declare the template MESSAGE"),
        (Pack("x", audiences=(pack.audiences[0],)), "two packs declare the audience kind users"),
        (
            Pack("x", templates=(replace(TEMPLATE, code="X"), replace(TEMPLATE, code="X"))),
            "version 1 of template X is declared twice",
        ),
        (
            Pack("x", templates=(replace(TEMPLATE, version=2),)),
            "two packs declare the template MESSAGE",
        ),
        (
            Pack("x", templates=(replace(TEMPLATE, code="X", category="NONE"),)),
            "template X has the unknown category NONE",
        ),
        (
            Pack("x", templates=(Template("X", "MESSAGE", TEMPLATE.priority, {"de": TEMPLATE.texts["en"]}),)),
            "template X has no English text",
        ),
        (
            Pack("x", templates=(replace(TEMPLATE, code="X", plan=PlanOptions(digest=DigestOptions())),)),
            "template X has a digest that cannot work: give windowSeconds or at",
        ),
    ],
)
def test_contradictory_packs_are_rejected_at_startup(other: Pack, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        of(pack, other)


@pytest.mark.parametrize(
    ("audience", "field"),
    [
        (NamedSet("ticketholders", {"eventId": "e"}), "audience.kind"),
        (NamedSet("ticket_holders"), "audience.eventId"),
        (NamedSet("ticket_holders", {"eventId": ""}), "audience.eventId"),
        (NamedSet("ticket_holders", {"eventId": 7}), "audience.eventId"),
        (NamedSet("ticket_holders", {"eventId": "e" * 201}), "audience.eventId"),
        (NamedSet("ticket_holders", {"eventId": "e", "event": "e"}), "audience.event"),
        (NamedSet("everyone", {"city": "Basel"}), "audience.city"),
        (users(), "audience.userIds"),
        (NamedSet("users", {"userIds": "ana"}), "audience.userIds"),
        (NamedSet("users", {"userIds": ["ana", ""]}), "audience.userIds[1]"),
        (NamedSet("users", {"userIds": ["ana", 7]}), "audience.userIds[1]"),
        (users(*(str(number) for number in range(MAX_EXPLICIT_USERS + 1))), "audience.userIds"),
        (Union(()), "audience.or"),
        (everyone() - NamedSet("fans"), "audience.and[1].not.kind"),
    ],
)
def test_an_undeclared_audience_is_rejected_with_its_field(catalog: Catalog, audience: Audience, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        catalog.check_audience(audience)
    assert [error.field for error in caught.value.field_errors] == [field]


def test_an_audience_that_could_not_be_read_back_is_refused(catalog: Catalog) -> None:
    deep: Audience = everyone()
    for _ in range(12):
        deep = Complement(deep)
    with pytest.raises(ValidationFailed, match="12 levels"):
        catalog.check_audience(deep)


def test_an_audience_as_declared_passes(catalog: Catalog) -> None:
    catalog.check_audience((ticket_holders("e") | city("Basel")) - users("ana"))


def test_a_mistyped_kind_gets_the_nearest_as_a_suggestion(catalog: Catalog) -> None:
    with pytest.raises(ValidationFailed, match="did you mean 'ticket_holders'"):
        catalog.check_audience(NamedSet("ticket_holder", {"eventId": "e"}))


def test_the_newest_version_of_a_template_is_current_and_older_ones_are_found_by_number() -> None:
    old, new = replace(TEMPLATE, code="X"), replace(TEMPLATE, code="X", version=2)
    catalog = of(pack, Pack("x", templates=(new, old)))
    assert catalog.templates["X"] is catalog.get_template("X") is catalog.get_template("X", 2) is new
    assert catalog.get_template("X", 1) is old
    assert catalog.get_template("X", 3) is new, "what is not declared is the current one"


CUSTOM: dict[str, tuple[Audience, str]] = {
    "f9 an attribute without a value": (NamedSet("attribute", {"name": "plan", "operator": "eq"}), "value"),
    "f9 a null value": (NamedSet("attribute", {"name": "plan", "operator": "ne", "value": None}), "value"),
    "f9 an empty value": (attribute("plan", "eq", ""), "value"),
    "f9 an empty list of values": (attribute("plan", "in", []), "value"),
    "f9 no operator": (NamedSet("attribute", {"name": "plan", "value": "pro"}), "operator"),
    "f9 no days": (NamedSet("engaged", {"action": "opened"}), "days"),
    "f9 no topic": (NamedSet("topic", {}), "topic"),
    "an unknown operator": (attribute("plan", "like", "p%"), "operator"),
    "a name with a quotation mark": (attribute('plan"', "exists"), "name"),
    "a name with a bracket": (attribute("plan[0]", "exists"), "name"),
    "a name that ends with a dot": (attribute("plan.", "exists"), "name"),
    "a name that is too long": (attribute("p" * 101, "exists"), "name"),
    "a value of exists": (attribute("plan", "exists", True), "value"),
    "a list where one value is compared": (attribute("plan", "eq", ["pro"]), "value"),
    "a boolean has no order": (attribute("plan", "gt", True), "value"),
    "an infinite number": (attribute("plan", "gt", float("inf")), "value"),
    "a number that JSON cannot hold": (attribute("plan", "eq", 2**53 + 1), "value"),
    "NUL": (attribute("plan", "eq", "\0"), "value"),
    "an unknown country": (NamedSet("country", {"country": "XX"}), "country"),
    "a latitude as text": (NamedSet("near", {"latitude": "1", "longitude": 2, "radiusKm": 3}), "latitude"),
    "a longitude out of range": (near(1, 181, radius_km=1), "longitude"),
    "a radius of zero": (near(1, 2, radius_km=0), "radiusKm"),
    "a radius that is not a number": (near(1, 2, radius_km=float("nan")), "radiusKm"),
    "a topic with a slash": (topic("a/b"), "topic"),
    "an unknown action": (engaged(days=3, action="liked"), "action"),
    "days out of range": (engaged(days=366), "days"),
    "days as a boolean": (NamedSet("engaged", {"action": "any", "days": True}), "days"),
    "days and since": (
        NamedSet("engaged", {"action": "any", "days": 3, "since": "2026-11-01T00:00:00Z"}),
        "days",
    ),
    "since without an offset": (NamedSet("engaged", {"action": "any", "since": "2026-11-01T00:00:00"}), "since"),
    "a channel that does not report it": (engaged(days=3, action="read", channel="email"), "channel"),
    "a feed does not report opens": (engaged(days=3, action="opened", channel="inapp"), "channel"),
    "a parameter of another kind": (NamedSet("topic", {"topic": "a", "name": "b"}), "name"),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_f9_and_other_faults_of_arguments_are_rejected_with_their_field(catalog: Catalog, name: str) -> None:
    audience, field = CUSTOM[name]
    with pytest.raises(ValidationFailed) as caught:
        catalog.check_audience(everyone() - audience)
    assert [error.field for error in caught.value.field_errors] == [f"audience.and[1].not.{field}"]


def test_days_become_an_instant_and_a_country_its_code_when_an_audience_is_pinned(catalog: Catalog) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    audience = NamedSet("country", {"country": "ch"}) - engaged(days=30, action="opened", channel="email")
    catalog.check_audience(audience)
    pinned = catalog.pin_audience(audience, now)
    since = {"action": "opened", "channel": "email", "since": "2026-10-23T12:00:00+00:00"}
    assert pinned == NamedSet("country", {"country": "CH"}) - NamedSet("engaged", since)
    catalog.check_audience(pinned)
    assert catalog.pin_audience(pinned, now + timedelta(days=9)) == pinned


def test_c4_a_maximum_below_the_window_is_refused_when_a_template_is_declared() -> None:
    digest = DigestOptions(window_seconds=60, sliding=True, max_seconds=30)
    declared = replace(TEMPLATE, code="X", plan=PlanOptions(digest=digest))
    with pytest.raises(ConfigError, match="maxSeconds must not be less than windowSeconds"):
        of(pack, Pack("x", templates=(declared,)))
