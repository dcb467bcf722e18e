"""Two servers never work on one database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidings.errors import ConfigError
from tidings.instance_lock import only_server

_HOLD = """
import sys
from pathlib import Path
from tidings.instance_lock import only_server
with only_server(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    first, second = only_server(tmp_path / "t.db"), only_server(tmp_path / "t.db")
    with first, pytest.raises(ConfigError, match=rf"process {os.getpid()}\) already works on"), second:
        pass


def test_the_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with only_server(tmp_path / "t.db"):
            assert (tmp_path / "t.db.lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _HOLD, str(tmp_path / "t.db")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid}"), only_server(tmp_path / "t.db"):
            pass
        holder.kill()
        holder.wait()
    with only_server(tmp_path / "t.db"):
        pass


def test_other_databases_are_not_concerned(tmp_path: Path) -> None:
    with only_server(tmp_path / "a.db"), only_server(tmp_path / "b.db"):
        pass
