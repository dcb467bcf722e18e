"""The catalog refuses what packs declare wrongly, and audiences that are not as declared."""

from dataclasses import replace

import pytest

from tidings.errors import ConfigError, Invalid
from tidings.flow.intake.catalog import MAX_EXPLICIT, Catalog
from tidings.model.audience import AnyOf, Audience, Except, Members, city, everyone, ticket_holders, users
from tidings.model.template import Category, Template
from tidings.packs.core import pack
from tidings.ports.pack import Pack

TEMPLATE = pack.templates[0]


def of(*packs: Pack) -> Catalog:
    return Catalog.of(packs, channels=("webpush",), known_channels=("webpush",))


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (Pack("x", categories=(Category("MESSAGE", "Again"),)), "two packs declare the category MESSAGE"),
        (Pack("x", templates=(TEMPLATE,)), "two packs declare the template MESSAGE"),
        (Pack("x", audiences=(pack.audiences[0],)), "two packs declare the audience kind users"),
        (
            Pack("x", templates=(replace(TEMPLATE, code="X", category="NONE"),)),
            "template X names the unknown category NONE",
        ),
        (
            Pack("x", templates=(Template("X", "MESSAGE", TEMPLATE.priority, {"de": TEMPLATE.words["en"]}),)),
            "template X has no English words",
        ),
    ],
)
def test_packs_that_do_not_fit_together_are_told_at_the_start(other: Pack, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        of(pack, other)


@pytest.mark.parametrize(
    ("audience", "field"),
    [
        (Members("ticketholders", {"eventId": "e"}), "audience.kind"),
        (Members("ticket_holders"), "audience.eventId"),
        (Members("ticket_holders", {"eventId": ""}), "audience.eventId"),
        (Members("ticket_holders", {"eventId": 7}), "audience.eventId"),
        (Members("ticket_holders", {"eventId": "e" * 201}), "audience.eventId"),
        (Members("ticket_holders", {"eventId": "e", "event": "e"}), "audience.event"),
        (Members("everyone", {"city": "Basel"}), "audience.city"),
        (users(), "audience.userIds"),
        (Members("users", {"userIds": "ana"}), "audience.userIds"),
        (Members("users", {"userIds": ["ana", ""]}), "audience.userIds[1]"),
        (Members("users", {"userIds": ["ana", 7]}), "audience.userIds[1]"),
        (users(*(str(number) for number in range(MAX_EXPLICIT + 1))), "audience.userIds"),
        (AnyOf(()), "audience.or"),
        (everyone() - Members("fans"), "audience.kind"),
    ],
)
def test_an_audience_that_is_not_as_declared_is_refused_by_field(
    catalog: Catalog, audience: Audience, field: str
) -> None:
    with pytest.raises(Invalid) as caught:
        catalog.check_audience(audience)
    assert [fault.field for fault in caught.value.faults] == [field]


def test_an_audience_that_could_not_be_read_back_is_refused(catalog: Catalog) -> None:
    deep: Audience = everyone()
    for _ in range(12):
        deep = Except(deep)
    with pytest.raises(Invalid, match="12 levels"):
        catalog.check_audience(deep)


def test_an_audience_as_declared_passes(catalog: Catalog) -> None:
    catalog.check_audience((ticket_holders("e") | city("Basel")) - users("ana"))


def test_a_mistyped_kind_is_answered_with_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(Invalid, match="did you mean 'ticket_holders'"):
        catalog.check_audience(Members("ticket_holder", {"eventId": "e"}))
