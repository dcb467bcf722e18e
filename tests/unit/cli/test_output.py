"""Tables never cut a value that a user may copy, at any width of the terminal."""

import sys
from collections.abc import Callable, Sequence

import pytest

from tidings.cli.output import print_table

_ID = "01a202d9-c335-7c6a-b1fb-10c08ca70896"

#: (column names, row) → output on a terminal of 80 characters
RenderTable = Callable[[Sequence[str], Sequence[object]], str]


@pytest.fixture
def render_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RenderTable:
    def show(columns: Sequence[str], row: Sequence[object]) -> str:
        monkeypatch.setenv("TERM", "dumb")  # 80 columns and no escape sequences
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        print_table(columns, [row], empty="")
        return capsys.readouterr().out

    return show


def test_an_id_is_not_wrapped_and_other_cells_are(render_table: RenderTable) -> None:
    printed = render_table(("id", "note", "created"), (_ID, "x" * 60, "2026-11-22T10:42:35+00:00"))
    assert _ID in printed
    assert printed.count("x") == 60
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_an_id_longer_than_a_line_is_folded(render_table: RenderTable) -> None:
    printed = render_table(("id", "locale"), ("u" * 200, "en"))
    assert printed.count("u") == 200
    assert "…" not in printed


def test_a_table_without_column_names_has_no_header(render_table: RenderTable) -> None:
    assert render_table(("", ""), ("id", "ana")).split() == ["id", "ana"]
