"""The documentation of packs and skips says what is so: its code runs, its table is complete."""

import re
from datetime import UTC, datetime
from pathlib import Path

from tidings.flow.intake.catalog import Catalog
from tidings.model.delivery import SkipReason
from tidings.model.notification import Notification
from tidings.model.priority import Priority
from tidings.model.request import NotifyRequest
from tidings.ports.pack import Pack
from tidings.stores.schema import metadata
from tidings.wording import MinijinjaWording

DOCS = Path(__file__).parents[3] / "docs"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_every_skip_reason_has_its_line_and_no_other() -> None:
    table = (DOCS / "reference" / "skips.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(SkipReason)


def test_the_pack_of_the_how_to_works() -> None:
    page = (DOCS / "howto" / "new-pack.md").read_text()
    names: dict[str, object] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(block, "new-pack.md", "exec"), names)
        pack, news = names["pack"], names["news"]
        assert isinstance(pack, Pack)
        assert callable(news)
        old = {"state": "ORDERED", "dueAt": None, "shelf": "A"}
        request = news("b1", "Ulysses", old, old | {"state": "READY", "dueAt": "2026-12-01T17:00:00Z"})
        assert news("b1", "Ulysses", old, old | {"shelf": "B"}) is None
    finally:
        # the example's table must not leak into what other tests create
        if "reservations" in metadata.tables:
            metadata.remove(metadata.tables["reservations"])
    assert isinstance(request, NotifyRequest)
    assert _rendered(pack, request, "de") == (
        "Ulysses",
        "Buch: bestellt → bereit\nRückgabe: – → Di., 1. Dez. 2026, 18:00",
        "https://library.example/books/b1",
    )


def _rendered(pack: Pack, request: NotifyRequest, locale: str) -> tuple[str, str, str]:
    catalog = Catalog.of([pack], channels=[], known_channels=[])
    catalog.check_audience(request.audience)
    template = catalog.template(request.template_code)
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
    wording = MinijinjaWording(catalog.filters, "https://library.example")
    content = wording.render(template, notification, locale, "Europe/Berlin")
    return content.title, content.body, content.url
