"""The shape of the code base: short files with one idea each, said in the first line (CONTRIBUTING.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tidings"
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def test_no_file_is_long() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*MODULES, *TESTS]}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_names_say_what_is_inside() -> None:
    vague = [
        path for path in MODULES if VAGUE & set(re.split(r"[_/]", path.relative_to(SOURCE).with_suffix("").as_posix()))
    ]
    assert vague == []


def test_the_first_line_says_what_the_file_is_for() -> None:
    trees = {name_of(path): tree_of(path) for path in MODULES}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{name_of(path)} {function.name}: {_lines(function)} lines"
        for path in MODULES
        if "migrations" not in path.parts
        for function in functions_of(tree_of(path))
        if _lines(function) > LONGEST_FUNCTION
    ]
    assert long == []


@pytest.mark.parametrize("part", ["flow", "ports", "model"])
def test_public_functions_and_classes_say_what_they_do(part: str) -> None:
    silent = [
        f"{name_of(path)}: {node.name}"
        for path in sorted((SOURCE / part).rglob("*.py"))
        for node in tree_of(path).body
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and not _explained(node, path)
    ]
    assert silent == []


def test_no_error_is_swallowed() -> None:
    swallowed = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and _swallows(node)
    ]
    assert swallowed == []


def _swallows(handler: ast.ExceptHandler) -> bool:
    catches_all = isinstance(handler.type, ast.Name) and handler.type.id in {"Exception", "BaseException"}
    silent = all(isinstance(step, ast.Pass) for step in handler.body)
    return handler.type is None or (catches_all and silent)


def _lines(function: Function) -> int:
    steps = function.body[1:] if ast.get_docstring(function) else function.body
    # inner functions are judged by themselves: a router is a list of them
    inner = sum((f.end_lineno or 0) - f.lineno + 1 for f in steps if isinstance(f, Function))
    return (function.end_lineno or 0) - steps[0].lineno + 1 - inner if steps else 0


def _explained(node: Function | ast.ClassDef, path: Path) -> bool:
    # enums whose members carry comments, and Protocols documented by their file, say it there
    return bool(ast.get_docstring(node)) or (isinstance(node, ast.ClassDef) and path.name in _SAYING_IT_BY_MEMBERS)


_SAYING_IT_BY_MEMBERS = {"store.py", "delivery.py", "notification.py", "subscription.py", "task.py"}
