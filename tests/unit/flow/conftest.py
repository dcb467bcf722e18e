"""A small catalog and its wording."""

import pytest

from tidings.flow.intake.catalog import Catalog
from tidings.model.priority import Priority
from tidings.model.template import Category, Template, Wording
from tidings.packs import core, events
from tidings.ports.pack import Pack
from tidings.wording import MinijinjaWording

NEWS = Pack(
    name="news",
    categories=(Category("NEWS", "News"),),
    templates=(
        Template(
            code="NEWS",
            category="NEWS",
            priority=Priority.HIGH,
            words={"en": Wording("{{ title }}", "{{ body }}{{ more }}")},
            optional=frozenset({"more"}),
            url="{{ link or '/' }}",
            defaults={"link": None},
        ),
    ),
)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.of([core.pack, events.pack, NEWS], channels=("webpush",), known_channels=("webpush", "email"))


@pytest.fixture
def wording(catalog: Catalog) -> MinijinjaWording:
    return MinijinjaWording(catalog.filters, "https://shop.example")
