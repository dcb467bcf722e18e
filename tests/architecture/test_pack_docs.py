"""The documentation of change rules and skips is correct: its example runs, its table is complete."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from tidings.flow.catalog import Catalog
from tidings.model.delivery import SkipReason
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.model.template import Category, Template
from tidings.ports.pack import AudienceKind, Pack
from tidings.rendering.minijinja_renderer import MinijinjaRenderer
from tidings.stores.schema.tables import users

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_skip_reasons_and_rows_of_the_table_are_the_same() -> None:
    table = (DOCS / "reference" / "skips.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(SkipReason)


def test_the_example_of_the_how_to_detects_and_describes_a_change() -> None:
    page = (DOCS / "howto" / "change-rules.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "change-rules.md", "exec"), names)
    news = names["news"]
    old = {"state": "ORDERED", "dueAt": None, "shelf": "A"}
    request = news("b1", "Ulysses", old, old | {"state": "READY", "dueAt": "2026-12-01T17:00:00Z"})
    assert news("b1", "Ulysses", old, old | {"shelf": "B"}) is None
    template: Template = names["LOAN_CHANGE"]
    pack = Pack(
        "library",
        categories=(Category(template.category, "News about my reservations"),),
        templates=(template,),
        audiences=(AudienceKind("reserved", {"bookId": "b1"}, lambda _arguments: select(users.c.id), "reserved it"),),
        filters={"loan_described": names["loan_described"]},
    )
    assert isinstance(request, NotifyRequest)
    assert _render(pack, request, "de") == (
        "Ulysses",
        "Buch: bestellt → bereit\nRückgabe: – → Di., 1. Dez. 2026, 18:00",
        "https://library.example/books/b1",
    )


def _render(pack: Pack, request: NotifyRequest, locale: str) -> tuple[str, str, str]:
    catalog = Catalog.from_packs([pack], channels=[], known_channels=[])
    catalog.check_audience(request.audience)
    template = catalog.get_template(request.template_code)
    notification = Notification(
        id="n1",
        template_code=template.code,
        template_version=template.version,
        category=template.category,
        audience=request.audience,
        variables=request.variables,
        priority=request.priority or Priority.NORMAL,
        channels=(),
        action_url=None,
        action_text=None,
        send_at=NOW,
        expires_at=NOW,
        created_at=NOW,
    )
    wording = MinijinjaRenderer(catalog.filters, "https://library.example")
    content = wording.render(template, notification, locale, "Europe/Berlin")
    return content.title, content.body, content.url
