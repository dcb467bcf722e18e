"""The default tier has a test of each guarantee, and `make test` ends with pytest's summary."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "guarantees.md"
#: further files of which the default tier runs some tests: adapters, browsers, Node.js
REPRESENTED = (
    "tests/browser/test_firefox_push.py",
    "tests/browser/test_service_worker.py",
    "tests/adapters/caches/test_memory_cache.py::TestMemoryCache",
    "tests/adapters/caches/test_redis_cache.py::TestRedisCache",
    "tests/adapters/query_plans/",
    "tests/adapters/presence/test_contract.py::TestFailoverPresence",
    "tests/adapters/presence/test_contract.py::TestMemoryPresence",
    "tests/adapters/presence/test_contract.py::TestRedisPresence",
    "tests/adapters/queues/test_bullmq_queue.py::TestBullMQQueue",
    "tests/adapters/queues/test_bullmq_queue.py::TestFailoverQueue",
    "tests/adapters/queues/test_memory_queue.py::TestMemoryQueue",
    "tests/adapters/stores/test_postgres.py::TestPostgresStore",
    "tests/adapters/stores/test_sqlite.py::TestSqliteStore",
    "tests/adapters/state_machine/test_machine.py::test_two_workers_on_lanes_in_memory",
    "tests/adapters/state_machine/test_machine.py::test_two_workers_on_postgresql_and_valkey",
    "tests/adapters/state_machine/test_plan_machine.py::test_c3_digests_and_steps_on_lanes_in_memory",
    "tests/adapters/state_machine/test_plan_machine.py::test_c3_digests_and_steps_on_postgresql_and_valkey",
    "tests/e2e/test_fuzz.py",
    "tests/e2e/test_node_interop.py",
)


def read_evidence() -> dict[str, Sequence[str]]:
    """Return guarantee → its files and folders of tests, from the table in the documentation."""
    table = PAGE.read_text(encoding="utf-8").partition("| promise | shown by |")[2].strip().splitlines()[1:]
    rows = (row.strip("| ").split(" | ") for row in table)
    return {promise: list(_paths(text)) for promise, text in rows}


def _paths(text: str) -> Sequence[str]:
    found: list[str] = []
    for name in re.findall(r"`(tests/[\w/.]+|test_\w+\.py)`", text):
        # a bare name is in the folder of the file before it
        found.append(name if name.startswith("tests/") else f"{found[-1].rpartition('/')[0]}/{name}")
    return found


@pytest.fixture(scope="module")
def collected() -> Sequence[str]:
    """The ids of the default tier's tests in the files of the page and of `REPRESENTED`."""
    files = {path for paths in read_evidence().values() for path in paths} | {
        name.split("::")[0] for name in REPRESENTED
    }
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sorted(files)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_the_default_tier_has_a_test_of_each_guarantee(collected: Sequence[str]) -> None:
    rows = read_evidence()
    assert len(rows) > 8
    missing = [path for paths in rows.values() for path in paths if not _has(collected, path)]
    assert missing == [], "what shows a promise is only run by `make test-all` or `make chaos`"
    assert [promise for promise, paths in rows.items() if not paths and "contracts" not in promise] == []


def test_the_default_tier_covers_every_adapter_and_browser(collected: Sequence[str]) -> None:
    assert [name for name in REPRESENTED if not _has(collected, name)] == []


def _has(collected: Sequence[str], start: str) -> bool:
    return any(name.startswith(start) for name in collected)


def test_make_test_ends_with_the_output_of_pytest() -> None:
    # this test may itself run below make, which then prints more
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "test"]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert " -m pytest " in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("check", "test"), [(0, 0), (1, 0), (0, 1)])
def test_ci_ends_with_the_last_line_of_make_test(check: int, test: int, tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "said by make $1"\ncase $1 in check) exit {check};; test) exit {test};; esac\n')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["said by make check", "said by make test"]
    assert done.returncode == (check or test)
