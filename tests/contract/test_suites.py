"""The suites are published in one place, each is run over every adapter, and the page about them runs as it stands."""

import ast
import asyncio
import re
import sys
from collections import defaultdict
from pathlib import Path

from tidings.testing import contracts

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "src" / "tidings" / "testing" / "contracts"
PAGE = ROOT / "docs" / "howto" / "own-adapter.md"
#: suite → adapters that it is run over, as the names of the test classes say
ADAPTERS = {
    "StoreContract": {"SqliteStore", "PostgresStore"},
    "AudiencesContract": {"SqliteAudiences", "PostgresAudiences"},
    "LimitsContract": {"SqliteLimits", "PostgresLimits"},
    "DeadLettersContract": {"SqliteDeadLetters", "PostgresDeadLetters"},
    "ProcessesContract": {"SqliteProcesses", "PostgresProcesses"},
    "SchedulesContract": {"SqliteSchedules", "PostgresSchedules"},
    "QueueContract": {"LocalQueue", "BullQueue", "FallbackQueue"},
    "CacheContract": {"LocalCache", "RedisCache"},
    "SharedCacheContract": {"RedisCacheOfTwoProcesses"},
    "PresenceContract": {"LocalPresence", "RedisPresence", "FallbackPresence"},
    "ClockContract": {"SystemClock", "FrozenClock", "FrozenClockMoved"},
}


def classes_of(folder: Path) -> list[tuple[str, ast.ClassDef]]:
    """Return every class under a folder, with the name of its file."""
    return [
        (path.stem, node)
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]


def bases_of(node: ast.ClassDef) -> set[str]:
    return {base.id for base in node.bases if isinstance(base, ast.Name)}


def suites() -> dict[str, str]:
    """Return suite → file of all that are no part of another one."""
    found = [(file, node) for file, node in classes_of(SUITES) if node.name.endswith("Contract")]
    parts = set().union(*(bases_of(node) for _, node in found))
    return {node.name: file for file, node in found if node.name not in parts}


def test_every_suite_is_listed_in_one_place() -> None:
    listed = re.findall(r"^\| `(\w+)\.(\w+)` \|", contracts.__doc__ or "", re.MULTILINE)
    assert {suite: file for file, suite in listed} == suites()


def test_every_suite_is_run_over_every_adapter() -> None:
    run: dict[str, set[str]] = defaultdict(set)
    for _, node in classes_of(ROOT / "tests" / "contract"):
        for suite in bases_of(node) & suites().keys():
            run[suite].add(node.name.removeprefix("Test"))
    assert ADAPTERS.keys() == suites().keys(), "a new suite needs its line in the table"
    assert {suite: missing for suite, wanted in ADAPTERS.items() if (missing := wanted - run[suite])} == {}


async def test_the_page_about_own_adapters_runs_as_it_stands(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = ("steady_clock.py", "test_steady_clock.py", "conftest.py", "test_my_presence.py")
    for name, block in zip(names, blocks, strict=True):
        (tmp_path / name).write_text(block, encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "-q")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) > 30, "both suites ran"
