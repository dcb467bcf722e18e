"""Metrics of several processes that share a folder: each process renders the sums over all of them.

Each process writes to its own subfolder (prometheus_client's multiprocess mode) and locks it for its lifetime. Process
ids cannot identify the processes, since containers that share a folder often have equal ones. A new process takes over
the subfolder of an ended one and continues its counters, so sums never decrease and files do not accumulate.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tidings.config.secret_files import create_private_folder
from tidings.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import Metric

_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: the kinds of files that the library writes for our metrics, and the bytes allocated for each in advance: a process
#: that writes to a memory-mapped file on a full disk is killed
_KINDS, _PREALLOCATED_BYTES = ("counter", "histogram", "gauge_livesum"), 1 << 20


class SharedMetrics:
    """The metrics folder of this process. One per process, created before the metrics library is imported."""

    def __init__(self, folder: Path) -> None:
        """Take over a subfolder. Raises ConfigError if the folder is not writable."""
        if "prometheus_client" in sys.modules:
            raise RuntimeError("SharedMetrics must be created before prometheus_client is imported")
        self._folder = folder
        try:
            create_private_folder(folder.parent)
            create_private_folder(folder)
            with self._hold_folder_lock():
                self._own = self._take_subfolder()
        except OSError as error:
            raise ConfigError(
                "TIDINGS_DATA_DIR", f"cannot write {folder}: {error.strerror}; use a folder that this user can write to"
            ) from error
        os.environ[_FOLDER_VARIABLE] = str(self._own)

    def render(self) -> bytes:
        """Return the sums over all running and ended processes in the Prometheus text format."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
        from prometheus_client.registry import Collector

        def families() -> Iterator[Metric]:
            for lock in self._folder.glob("*/lock"):
                subfolder = str(lock.parent)
                if lock.parent != self._own and _is_unlocked(lock):
                    mark_process_dead(lock.read_text(), subfolder)  # type: ignore[no-untyped-call]  # untyped
                yield from MultiProcessCollector(None, subfolder).collect()  # type: ignore[no-untyped-call]  # untyped

        class SumCollector(Collector):
            def collect(self) -> Iterable[Metric]:
                return _sum_families(families())

        with self._hold_folder_lock():
            registry = CollectorRegistry()
            registry.register(SumCollector())
            return generate_latest(registry)

    @contextmanager
    def _hold_folder_lock(self) -> Iterator[None]:
        """Prevent other processes from reading or taking over a subfolder meanwhile."""
        with (self._folder / "folder.guard").open("w") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            yield

    def _take_subfolder(self) -> Path:
        """Take over the first subfolder that no running process has locked, with its counters."""
        for subfolder in (self._folder / str(number) for number in count()):
            create_private_folder(subfolder)
            # locked until the process ends, even if it is killed
            self._lock = (subfolder / "lock").open("a+")
            if _try_lock(self._lock.fileno()):
                break
            self._lock.close()
        pid = os.getpid()
        self._lock.truncate(0)
        self._lock.write(str(pid))
        self._lock.flush()
        for file in subfolder.glob("gauge_*.db"):
            file.unlink()  # gauges of the ended process are no longer valid
        for kind in _KINDS:
            own = subfolder / f"{kind}_{pid}.db"
            for old in sorted(subfolder.glob(f"{kind}_*.db")):
                if not own.exists():
                    old.rename(own)
            if not own.exists():
                with own.open("wb") as opened:
                    os.posix_fallocate(opened.fileno(), 0, _PREALLOCATED_BYTES)
        return subfolder


def _sum_families(families: Iterable[Metric]) -> Iterable[Metric]:
    """Return each family once, with the sums of its samples."""
    from prometheus_client import Metric

    summed: dict[str, Metric] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in families:
        summed.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        family_sums = sums.setdefault(family.name, {})
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.items()))
            family_sums[key] = family_sums.get(key, 0.0) + sample.value
    for name, family_sums in sums.items():
        for (sample_name, labels), value in family_sums.items():
            summed[name].add_sample(sample_name, dict(labels), value)
    return summed.values()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_unlocked(lock: Path) -> bool:
    with lock.open("r") as file:
        return _try_lock(file.fileno())
