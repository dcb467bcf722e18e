"""The size and the documentation of modules and functions (CONTRIBUTING.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tidings"
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in [*MODULES, *TESTS]}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_every_module_has_a_docstring() -> None:
    trees = {name_of(path): tree_of(path) for path in MODULES}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_no_function_is_longer_than_the_limit() -> None:
    long = [
        f"{name_of(path)} {function.name}: {_count_lines(function)} lines"
        for path in MODULES
        if "migrations" not in path.parts
        for function in functions_of(tree_of(path))
        if _count_lines(function) > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("part", ["flow", "ports", "model"])
def test_public_functions_and_classes_have_docstrings(part: str) -> None:
    undocumented = [
        f"{name_of(path)}: {node.name}"
        for path in sorted((SOURCE / part).rglob("*.py"))
        for node in tree_of(path).body
        if isinstance(node, Function | ast.ClassDef)
        and not node.name.startswith("_")
        and not _is_documented(node, path)
    ]
    assert undocumented == []


def test_no_except_block_swallows_every_error() -> None:
    swallowing = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and _swallows(node)
    ]
    assert swallowing == []


def _swallows(handler: ast.ExceptHandler) -> bool:
    catches_all = isinstance(handler.type, ast.Name) and handler.type.id in {"Exception", "BaseException"}
    silent = all(isinstance(statement, ast.Pass) for statement in handler.body)
    return handler.type is None or (catches_all and silent)


def _count_lines(function: Function) -> int:
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    # inner functions are measured separately: a router consists of them
    inner = sum((f.end_lineno or 0) - f.lineno + 1 for f in statements if isinstance(f, Function))
    return (function.end_lineno or 0) - statements[0].lineno + 1 - inner if statements else 0


def _is_documented(node: Function | ast.ClassDef, path: Path) -> bool:
    # the members of these enums and Protocols are documented instead
    return bool(ast.get_docstring(node)) or (isinstance(node, ast.ClassDef) and path.name in _DOCUMENTED_BY_MEMBER)


_DOCUMENTED_BY_MEMBER = {"store.py", "delivery.py", "notification.py", "subscription.py", "task.py"}
