"""The overview of preferences agrees with the consent rules of planning."""

from itertools import product
from types import SimpleNamespace

import pytest

from tidings.api.routes.preferences import build_overview
from tidings.model.consent import check_consent
from tidings.model.delivery import SkipReason
from tidings.model.template import Category
from tidings.model.preference import Preference


@pytest.mark.parametrize(
    ("mandatory", "opt_in", "choice"), list(product([True, False], [True, False], [True, False, None]))
)
def test_the_overview_shows_the_rule_that_planning_applies(mandatory: bool, opt_in: bool, choice: bool | None) -> None:
    category = Category("NEWS", "News", mandatory=mandatory, opt_in=opt_in)
    catalog = SimpleNamespace(
        categories={"NEWS": category}, templates={}, audiences={}, channels=("webpush",), known_channels=("webpush",)
    )
    preferences = [] if choice is None else [Preference("NEWS", "webpush", choice)]
    (category_overview,) = build_overview(catalog, preferences).categories  # type: ignore[arg-type]  # only the categories of the catalog are read
    assert category_overview.channels == {"webpush": not isinstance(check_consent(choice, category), SkipReason)}
