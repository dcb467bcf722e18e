"""A test that fails beside others is run again alone; a fault fails both times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: fails in a process of pytest-xdist, as a test whose time limit passes on a loaded machine
LOADED = 'import os\ndef test_limit() -> None:\n    assert "PYTEST_XDIST_WORKER" not in os.environ\n'
FAULTY = "def test_fault() -> None:\n    assert False\n"
CONFTEST = (ROOT / "tests" / "support" / "run_again.py").read_text(encoding="utf-8") + (
    "\n\n@pytest.hookimpl(trylast=True)\n"
    "def pytest_sessionfinish(session: pytest.Session) -> None:\n"
    "    if getattr(session.config.option, 'numprocesses', None):\n"
    "        run_failures_again(session)\n"
)


@pytest.mark.parametrize(
    ("tests", "code", "summary"),
    [({"loaded": LOADED}, 0, "1 flaky"), ({"loaded": LOADED, "faulty": FAULTY}, 1, "1 failed, 1 flaky")],
)
def test_a_failed_test_is_run_again_alone(tests: dict[str, str], code: int, summary: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    for name, source in tests.items():
        (tmp_path / f"test_{name}.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == code, run.stdout
    assert summary in run.stdout.splitlines()[-1], run.stdout
    assert "PYTEST_XDIST_WORKER" in run.stdout, "the first failure is printed"
