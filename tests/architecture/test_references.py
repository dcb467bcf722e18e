"""Comments and pages refer only to documents that are in the repository."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "docs", "bench")
SUFFIXES = {".py", ".md", ".js", ".mjs", ".css", ".html", ".toml", ".yaml", ".json"}
#: third-party texts, which are kept unchanged
FOREIGN = {"vendor", "node_modules", "data", "fonts"}
#: a page is referred to by its path or by its file name
_PAGE = re.compile(r"[\w./-]*\w\.md\b")
_DECISION = re.compile(r"\b[Dd]ecision (\d+)\b")
#: rows and sections of lists outside the repository
_ELSEWHERE = re.compile(
    r"\bMISSION\b|\bfacts: ?[a-z]+,|\bfacts/|\(\w*[A-Z]\d{1,2}(?:, ?[A-Z]\d{1,2})*\)|\[F(?:\d+|CM)\]"
)


def list_texts() -> Iterator[tuple[Path, str]]:
    """Yield (path from the root, text) of every file that is not third-party."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT)
            if path.suffix in SUFFIXES and not FOREIGN & set(name.parts) and path != Path(__file__):
                yield name, path.read_text(encoding="utf-8")


TEXTS = list(list_texts())
PAGES = {path.name for folder in (ROOT / "docs", ROOT / "bench") for path in folder.rglob("*.md")} | {
    path.name for path in ROOT.glob("*.md")
}


@pytest.mark.parametrize(
    "text", ["see MISSION", "(facts: queue, 11)", "facts/queue.md", "counted by itself (M18)", "[F3]"]
)
def test_the_check_recognises_a_reference_to_an_external_list(text: str) -> None:
    assert _ELSEWHERE.search(text)


def test_no_text_refers_to_an_external_list() -> None:
    assert len(TEXTS) > 400, "the folders are read"
    found = [f"{name}: {hit.group()}" for name, text in TEXTS for hit in _ELSEWHERE.finditer(text)]
    assert found == []


def test_every_page_referred_to_exists() -> None:
    found = [
        f"{name}: {page}"
        for name, text in TEXTS
        for page in _PAGE.findall(text)
        if page.rpartition("/")[2] not in PAGES
    ]
    assert found == []


def test_every_decision_referred_to_exists() -> None:
    known = {int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("0*.md")}
    assert known
    found = [
        f"{name}: decision {number}"
        for name, text in TEXTS
        for number in _DECISION.findall(text)
        if int(number) not in known
    ]
    assert found == []
