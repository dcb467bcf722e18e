"""The catalog rejects contradictory declarations of packs, and audiences that are not as declared."""

from dataclasses import replace

import pytest

from tidings.errors import ConfigError, ValidationFailed
from tidings.flow.catalog import MAX_EXPLICIT_USERS, Catalog
from tidings.model.audience import Audience, Complement, NamedSet, Union, city, everyone, ticket_holders, users
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


def test_c4_a_maximum_below_the_window_is_refused_when_a_template_is_declared() -> None:
    digest = DigestOptions(window_seconds=60, sliding=True, max_seconds=30)
    declared = replace(TEMPLATE, code="X", plan=PlanOptions(digest=digest))
    with pytest.raises(ConfigError, match="maxSeconds must not be less than windowSeconds"):
        of(pack, Pack("x", templates=(declared,)))
