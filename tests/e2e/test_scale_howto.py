"""The commands of the documentation about scaling, run line by line on PostgreSQL and Valkey."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tidings.stores.engine.schema_lock import SCHEMA_LOCK_ID
from tidings.testing.ports import free_port
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
#: seconds for a whole page, which takes about 40
TIMEOUT = 300
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: ports named in the pages
_PORT = re.compile(r"\b(8000|8001|8002|9001)\b")


@dataclass(frozen=True)
class PageRunner:
    """A folder to run a page's commands in, with `tidings` on the path, and the servers they need."""

    folder: Path
    postgres: PostgresServer
    database: str
    redis: str

    def run(self, script: str, **more: str) -> str:
        """Run a script in bash, which stops at the first error; return its output."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        tools = Path(sys.executable).parent
        given = {"TIDINGS_DATABASE": self.database, "TIDINGS_REDIS": self.redis, "NO_COLOR": "1", **more}
        ports: dict[str, str] = {}
        command = ["bash", "-euo", "pipefail", "-c", _PORT.sub(lambda found: _other_port(ports, found[0]), script)]
        with subprocess.Popen(
            command,
            env={**inherited, "PATH": f"{tools}:{inherited['PATH']}", **given},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=TIMEOUT)
            finally:
                # ends processes that a failed script left running
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, f"{output[-3000:]}\n{errors[-3000:]}"
        return output

    def count(self, query: str) -> int:
        return int(self.postgres.run_sql(query, self.database.rpartition("/")[2]))


def _other_port(known: dict[str, str], named: str) -> str:
    return known.setdefault(named, str(free_port()))


def section(page: str, heading: str) -> str:
    """Return the shell commands of one section of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"{page} has no section {heading!r}"
    commands = "\n".join(_BLOCK.findall(rest.partition("\n## ")[0]))
    assert commands, f"the section {heading!r} of {page} has no commands"
    # background processes end with the script in every case
    return f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{commands}"


@pytest.fixture
def runner(tmp_path: Path, postgres: PostgresServer, postgres_url: str) -> Iterator[PageRunner]:
    tools = tmp_path / ".venv"
    tools.mkdir()
    (tools / "bin").symlink_to(Path(sys.executable).parent)
    with ValkeyServer(append_only=True) as valkey:
        yield PageRunner(tmp_path, postgres, postgres_url, valkey.url)


@pytest.mark.slow
def test_the_commands_of_the_howto_work(runner: PageRunner) -> None:
    output = runner.run(section("docs/howto/scale.md", "On one machine, step by step"))
    assert len(re.findall(r"^Delivered$", output, re.MULTILINE)) == 3, output
    assert '"status":"ok"' in output.replace(" ", "")
    # each on the user's device and in the feed
    assert runner.count("SELECT count(*) FROM deliveries WHERE state = 'delivered'") == 6
    assert runner.count("SELECT count(*) FROM deliveries WHERE channel = 'webpush'") == 3
    assert runner.count("SELECT count(*) FROM deliveries") == 6
    # processes that shut down gracefully logged it; only the killed one did not
    assert runner.count("SELECT count(*) FROM processes") == 1


@pytest.mark.slow
def test_the_commands_of_the_readme_work(runner: PageRunner) -> None:
    commands = section("README.md", "When one machine is not enough")
    output = runner.run(f"{commands}\nkill -TERM $(jobs -p)\nwait")
    assert '"status":"ok"' in output
    assert re.search(r"^tdg_\S+$", output, re.MULTILINE)
    assert runner.count("SELECT count(*) FROM processes") == 0, "all three must deregister"


def test_the_query_of_the_howto_finds_the_schema_lock_holder(postgres: PostgresServer, postgres_url: str) -> None:
    page = (ROOT / "docs/howto/scale.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"`SELECT a\.\* (FROM pg_locks [^`]+)`", page)
    database = postgres_url.rpartition("/")[2]
    with psycopg.connect(postgres_url) as connection:
        assert postgres.run_sql(f"SELECT a.pid {query}", database) == ""
        connection.execute("SELECT pg_advisory_lock(%s)", [SCHEMA_LOCK_ID])
        assert postgres.run_sql(f"SELECT a.pid {query}", database) == str(connection.info.backend_pid)
