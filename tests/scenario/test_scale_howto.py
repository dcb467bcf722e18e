"""What the pages say about the scaled set-up is done, line by line, on a real PostgreSQL and a real Valkey."""

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

from tidings.stores.locks import SCHEMA
from tidings.testing.fleet import free_port
from tidings.testing.postgres import PostgresServer
from tidings.testing.valkey import ValkeyServer

ROOT = Path(__file__).parents[2]
#: seconds for a whole page; it takes about 40 of them
PATIENCE = 300
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: the ports that the pages name
_PORT = re.compile(r"\b(8000|8001|8002|9001)\b")


@dataclass(frozen=True)
class Place:
    """A folder to run a page in, with `tidings` on the path, and the servers it needs."""

    folder: Path
    postgres: PostgresServer
    database: str
    redis: str

    def run(self, script: str, **more: str) -> str:
        """Run a script until its end, as bash in a terminal would but for the first error; return what it printed."""
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
                said, complained = process.communicate(timeout=PATIENCE)
            finally:
                # what a failure left running
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, f"{said[-3000:]}\n{complained[-3000:]}"
        return said

    def count(self, query: str) -> int:
        return int(self.postgres.sql(query, self.database.rpartition("/")[2]))


def _other_port(known: dict[str, str], named: str) -> str:
    return known.setdefault(named, str(free_port()))


def section(page: str, heading: str) -> str:
    """Return the shell commands of one section of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"{page} has no section {heading!r}"
    commands = "\n".join(_BLOCK.findall(rest.partition("\n## ")[0]))
    assert commands, f"the section {heading!r} of {page} has no commands"
    # whatever happens, nothing goes on after the script
    return f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{commands}"


@pytest.fixture
def place(tmp_path: Path, postgres: PostgresServer, postgres_url: str) -> Iterator[Place]:
    tools = tmp_path / ".venv"
    tools.mkdir()
    (tools / "bin").symlink_to(Path(sys.executable).parent)
    with ValkeyServer(append_only=True) as valkey:
        yield Place(tmp_path, postgres, postgres_url, valkey.url)


@pytest.mark.slow
def test_the_howto_does_what_it_says(place: Place) -> None:
    said = place.run(section("docs/howto/scale.md", "On one machine, step by step"))
    assert len(re.findall(r"^Delivered$", said, re.MULTILINE)) == 3, said
    assert '"status":"ok"' in said.replace(" ", "")
    assert place.count("SELECT count(*) FROM deliveries WHERE state = 'delivered'") == 3
    assert place.count("SELECT count(*) FROM deliveries") == 3
    # what was stopped in order said so; only the killed one did not
    assert place.count("SELECT count(*) FROM processes") == 1


@pytest.mark.slow
def test_the_commands_of_the_readme_do_what_they_say(place: Place) -> None:
    commands = section("README.md", "When one machine is not enough")
    asked = place.run(f"{commands}\nkill -TERM $(jobs -p)\nwait")
    assert '"status":"ok"' in asked
    assert re.search(r"^tdg_\S+$", asked, re.MULTILINE)
    assert place.count("SELECT count(*) FROM processes") == 0, "all three left in order"


def test_the_howto_finds_who_holds_the_schema(postgres: PostgresServer, postgres_url: str) -> None:
    page = (ROOT / "docs/howto/scale.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"`SELECT a\.\* (FROM pg_locks [^`]+)`", page)
    database = postgres_url.rpartition("/")[2]
    with psycopg.connect(postgres_url) as connection:
        assert postgres.sql(f"SELECT a.pid {query}", database) == ""
        connection.execute("SELECT pg_advisory_lock(%s)", [SCHEMA])
        assert postgres.sql(f"SELECT a.pid {query}", database) == str(connection.info.backend_pid)
