"""Runs failed tests of a parallel run again, alone and in new processes.

Tests with real servers have time limits. Beside two other processes of pytest on a loaded machine one may be exceeded
although nothing is wrong. A fault fails both times.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

#: more failed tests have a common cause, and none is run again
MAX_FAILURES = 10
#: seconds for one test with its servers
TIME_LIMIT = 300
#: the suffix that pytest-xdist adds to the id of a grouped test
_GROUP = re.compile(r"@(architecture|browser|chaos|adapters|e2e)\b[^@\]]*$")


def run_failures_again(session: pytest.Session) -> None:
    """Run the failed tests of a session again, and count those that pass as `flaky` instead of failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    failures = {
        report.nodeid: key
        for key in ("failed", "error")
        for report in reporter.stats.get(key, [])
        if isinstance(report, pytest.TestReport)
    }
    count = sum(len(reporter.stats.get(key, [])) for key in ("failed", "error"))
    # a session that -x or an error of pytest ended early is not run again
    if session.exitstatus is not pytest.ExitCode.TESTS_FAILED or not failures or count > MAX_FAILURES:
        return
    reporter.section("failed tests run again, alone")
    passed = {node_id for node_id in failures if _passes_alone(session, reporter, node_id)}
    for key in ("failed", "error"):
        reports = reporter.stats.pop(key, [])
        if kept := [report for report in reports if report.nodeid not in passed]:
            reporter.stats[key] = kept
        for report in reports:
            if report.nodeid in passed:
                reporter.stats.setdefault("flaky", []).append(report)
                reporter.write_line(f"first failure of {report.nodeid}:")
                report.toterminal(reporter._tw)
    session.testsfailed = sum(len(reporter.stats.get(key, [])) for key in ("failed", "error"))
    if not session.testsfailed:
        session.exitstatus = pytest.ExitCode.OK


def _passes_alone(session: pytest.Session, reporter: pytest.TerminalReporter, node_id: str) -> bool:
    path, _, name = _GROUP.sub("", node_id).partition("::")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", session.config.option.markexpr]
    try:
        run = subprocess.run(
            [*command, f"{Path(session.config.rootpath, path)}::{name}"],
            cwd=session.config.rootpath,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        reporter.write_line(f"{node_id}: exceeded {TIME_LIMIT} s")
        return False
    has_passed = run.returncode == pytest.ExitCode.OK
    reporter.write_line(f"{node_id}: {'passed' if has_passed else 'failed again'}")
    if not has_passed:
        reporter.write_line(run.stdout)
    return has_passed
