"""Log events have snake_case names, and each event is logged by one module."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tidings"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
SNAKE_CASE = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+")
#: events of a single word: the start and the stop of a worker
ONE_WORD = {"draining", "drained", "recovered"}


class LogCall(NamedTuple):
    """A call of a logger."""

    module: str
    line: int
    #: None = not a literal, so an operator cannot search for it
    event: str | None


def find_logger_names(tree: ast.AST) -> set[str]:
    """Return the names that are bound to a structlog logger."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr in {"get_logger", "getLogger"}
        and isinstance(node.value.func.value, ast.Name)
        and node.value.func.value.id == "structlog"
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def find_log_calls(module: str, text: str) -> Iterator[LogCall]:
    tree = ast.parse(text)
    loggers = find_logger_names(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id in loggers:
            event = node.args[0] if node.args else None
            literal = event.value if isinstance(event, ast.Constant) and isinstance(event.value, str) else None
            yield LogCall(module, node.lineno, literal)


def find_all_log_calls() -> list[LogCall]:
    return [
        one
        for path in sorted(SOURCE.rglob("*.py"))
        for one in find_log_calls(path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8"))
    ]


def find_misnamed(logged: list[LogCall]) -> list[LogCall]:
    return [
        one for one in logged if one.event is None or not (SNAKE_CASE.fullmatch(one.event) or one.event in ONE_WORD)
    ]


def find_shared_events(logged: list[LogCall]) -> dict[str, set[str]]:
    modules: dict[str, set[str]] = defaultdict(set)
    for one in logged:
        modules[str(one.event)].add(one.module)
    return {event: found for event, found in modules.items() if len(found) > 1}


def test_events_are_snake_case() -> None:
    logged = find_all_log_calls()
    assert len(logged) > 40
    assert find_misnamed(logged) == []
    assert {one.event for one in logged} >= ONE_WORD


def test_each_event_is_logged_by_one_module() -> None:
    assert find_shared_events(find_all_log_calls()) == {}


@pytest.mark.parametrize(
    "call",
    [
        'warning("two words")',
        'warning(f"{name} is set")',
        'info("CamelCase")',
        "info(EVENT)",
        'exception("trailing_")',
        'log("x")',
    ],
)
def test_the_check_finds_a_misnamed_event(call: str) -> None:
    text = f"import structlog\nlog = structlog.get_logger(__name__)\nlog.{call}\nlog.info('job_done')\n"
    assert [found.line for found in find_misnamed(list(find_log_calls("a.py", text)))] == [3]


def test_the_check_finds_an_event_of_two_modules() -> None:
    text = "import structlog\n_log = structlog.get_logger()\n_log.info('job_done')\n"
    assert find_shared_events([*find_log_calls("a.py", text), *find_log_calls("b.py", text)]) == {
        "job_done": {"a.py", "b.py"}
    }
