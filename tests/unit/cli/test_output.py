"""Tables never cut what somebody wants to copy, however narrow the terminal."""

import sys

import pytest

from tidings.cli.output import print_table

_ID = "01a202d9-c335-7c6a-b1fb-10c08ca70896"


@pytest.fixture(autouse=True)
def _narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")


def test_an_id_stays_in_one_piece_and_the_rest_goes_on_below(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "label", "created"), [(_ID, "l" * 60, "2026-11-22T10:42:35+00:00")], empty="")
    printed = capsys.readouterr().out
    assert _ID in printed
    assert printed.count("l") == 60 + len(["label"]) * 2
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_an_id_longer_than_a_line_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "locale"), [("u" * 200, "en")], empty="")
    printed = capsys.readouterr().out
    assert printed.count("u") == 200
    assert "…" not in printed


def test_a_table_without_names_has_no_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", ""), [("id", "ana")], empty="")
    assert capsys.readouterr().out.split() == ["id", "ana"]
