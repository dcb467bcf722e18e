"""Commands that read the database load neither the API nor the channels."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: loaded by servers, and by commands that need them
HEAVY = [
    *("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "pyreqwest", "babel", "prometheus_client", "alembic"),
    *("minijinja", "redis", "asyncpg", "tidings.container", "tidings.channels", "tidings.server"),
]
_RUN = """
import json, sys
from tidings.cli.app import run
code = run(json.loads(sys.argv[1]))
print(json.dumps([code, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "--user", "ana", "--notification", "0190a3c0-8f00-7000-8000-000000000001"],
        ["keys", "list"],
        ["keys", "create", "--scope", "read"],
        ["users", "list"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_command_that_reads_the_database_starts_fast(
    arguments: list[str], upgraded_database: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tidings.db").write_bytes(upgraded_database.read_bytes())
    command = [*arguments, "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(command), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=60,
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert (code, loaded) == (1 if arguments[0] == "explain" else 0, []), done.stderr
