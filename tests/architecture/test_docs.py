"""The documentation is complete, and its links lead somewhere."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from tidings.cli import openapi
from tidings.cli.app import COMMANDS
from tidings.settings import Settings
from tidings.settings_sources import variable

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_every_setting_is_documented_with_its_default() -> None:
    page = text_of("reference/settings.md")
    fields = Settings.model_fields
    assert [variable(name) for name in fields if f"| `{variable(name)}` |" not in page] == []
    plain = {name: field.default for name, field in fields.items() if isinstance(field.default, int | Path)}
    wrong = [
        name
        for name, default in plain.items()
        if f"| `{variable(name)}` | `{str(default).lower() if isinstance(default, bool) else default}` |" not in page
    ]
    assert wrong == []


def test_every_documented_setting_exists() -> None:
    known = {variable(name) for name in Settings.model_fields}
    named = set(re.findall(r"TIDINGS_[A-Z_]+[A-Z]", "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert {name for name in named if name not in known and name.removesuffix("_FILE") not in known} == set()


def test_every_command_is_documented() -> None:
    page = text_of("reference/cli.md")
    assert [name for name in COMMANDS if f"## `tidings {name}`" not in page] == []


def test_every_route_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(openapi.openapi())
    routes = json.loads(capsys.readouterr().out)["paths"]
    page = text_of("reference/api.md")
    assert [path for path in routes if f"{path}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in _LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and not target.startswith(("http://", "https://", "mailto:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []
