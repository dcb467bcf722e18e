"""Two servers never use one SQLite database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidings.config.instance_lock import hold_instance_lock
from tidings.errors import ConfigError

_HOLD = """
import sys
from pathlib import Path
from tidings.config.instance_lock import hold_instance_lock
with hold_instance_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_error_of_a_second_process_names_the_first(tmp_path: Path) -> None:
    first, second = hold_instance_lock(tmp_path / "t.db"), hold_instance_lock(tmp_path / "t.db")
    with first, pytest.raises(ConfigError, match=rf"process {os.getpid()}\) already uses"), second:
        pass


def test_the_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with hold_instance_lock(tmp_path / "t.db"):
            assert (tmp_path / "t.db.lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _HOLD, str(tmp_path / "t.db")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid}"), hold_instance_lock(tmp_path / "t.db"):
            pass
        holder.kill()
        holder.wait()
    with hold_instance_lock(tmp_path / "t.db"):
        pass


def test_other_databases_are_not_locked(tmp_path: Path) -> None:
    with hold_instance_lock(tmp_path / "a.db"), hold_instance_lock(tmp_path / "b.db"):
        pass
