"""Contract suites: all are listed in one place and run over every adapter, and their documentation page works."""

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
#: suite → adapters that it runs over, by the names of the test classes
ADAPTERS = {
    "StoreContract": {"SqliteStore", "PostgresStore"},
    "AudiencesContract": {"SqliteAudiences", "PostgresAudiences"},
    "TargetingContract": {"SqliteTargeting", "PostgresTargeting"},
    "LimitsContract": {"SqliteLimits", "PostgresLimits"},
    "DeadLettersContract": {"SqliteDeadLetters", "PostgresDeadLetters"},
    "ProcessesContract": {"SqliteProcesses", "PostgresProcesses"},
    "SchedulesContract": {"SqliteSchedules", "PostgresSchedules"},
    "ChannelContract": {
        *("EmailChannel", "SmsChannel", "WebhookChannel", "WebPushChannel", "ChatChannel", "InAppChannel"),
    },
    "QueueContract": {"MemoryQueue", "BullMQQueue", "FailoverQueue"},
    "CacheContract": {"MemoryCache", "RedisCache"},
    "SharedCacheContract": {"RedisCacheOfTwoProcesses"},
    "PresenceContract": {"MemoryPresence", "RedisPresence", "FailoverPresence"},
    "ClockContract": {"SystemClock", "FrozenClock", "AdvancedFrozenClock"},
}


def find_classes(folder: Path) -> list[tuple[str, ast.ClassDef]]:
    """Return every class under a folder, with the name of its file."""
    return [
        (path.stem, node)
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]


def base_names(node: ast.ClassDef) -> set[str]:
    return {base.id for base in node.bases if isinstance(base, ast.Name)}


def find_suites() -> dict[str, str]:
    """Return suite → file of the suites that are not part of another suite."""
    found = [(file, node) for file, node in find_classes(SUITES) if node.name.endswith("Contract")]
    part_names = set().union(*(base_names(node) for _, node in found))
    return {node.name: file for file, node in found if node.name not in part_names}


def test_every_suite_is_listed_in_one_place() -> None:
    listed = re.findall(r"^\| `(\w+)\.(\w+)` \|", contracts.__doc__ or "", re.MULTILINE)
    assert {suite: file for file, suite in listed} == find_suites()


def test_every_suite_runs_over_every_adapter() -> None:
    suites = find_suites().keys()
    run: dict[str, set[str]] = defaultdict(set)
    for _, node in find_classes(ROOT / "tests" / "adapters"):
        for suite in base_names(node) & suites:
            run[suite].add(node.name.removeprefix("Test"))
    assert ADAPTERS.keys() == suites, "a new suite needs a line in the table"
    assert {suite: missing for suite, expected in ADAPTERS.items() if (missing := expected - run[suite])} == {}


async def test_the_examples_of_the_own_adapter_page_run_unchanged(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = ("steady_clock.py", "test_steady_clock.py", "conftest.py", "test_my_presence.py")
    for name, block in zip(names, blocks, strict=True):
        (tmp_path / name).write_text(block, encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", "-q")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) > 18, "both suites ran"
