"""Suppressions are applied in one place, which every message of every channel passes."""

import ast
from pathlib import Path

import tidings

SOURCES = Path(tidings.__file__).parent
#: composes the messages of templates
SENDER = "flow/deliver/sender.py"
#: compose the test message that an operator sends to an address of their choice, and the messages of the contract suite
TESTS = {"api/routes/channels.py", "channels/channel_test.py", "testing/contracts/channel_contract.py"}


def find_calls(name: str) -> set[str]:
    """Return the files that call a function or class by this name."""
    return {
        file.relative_to(SOURCES).as_posix()
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    }


def test_c53_suppressions_are_applied_in_one_place() -> None:
    assert find_calls("find_suppression") == {"flow/plan/rules/suppression.py"}


def test_c53_no_message_is_sent_without_the_check() -> None:
    assert find_calls("OutboundMessage") - TESTS == {SENDER}
    assert find_calls("preflight") == {SENDER}
