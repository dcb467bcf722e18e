"""Metrics of several processes, in one folder: whichever process is asked answers with the sum of all.

Each process counts in files of its own (prometheus_client's multiprocess mode) under a name nobody else ever has, and
holds a lock as long as it lives; process ids would not do, they repeat, and containers that share a folder all have
the same. What a dead process counted is added to an archive and its files go: sums never fall, files do not pile up.
"""

import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from tidings.errors import ConfigError
from tidings.secret_files import private_folder

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
#: kinds of files that outlive their process; gauges of a dead process mean nothing
_LASTING = ("counter", "histogram")
_GAUGES = "gauge_livesum"
#: bytes kept for each file from the start: a mapped file that finds the disk full kills its process
_KEPT_FREE = 1 << 20


class SharedMetrics:
    """This process's place in the folder. One per process, made before any metric is."""

    def __init__(self, folder: Path) -> None:
        """Take a place. Raises ConfigError when the folder cannot be written."""
        if "tidings.insight.counters" in sys.modules:
            raise RuntimeError("metrics were made before it was known that they are shared")
        self._folder = folder
        self._name = f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            private_folder(folder.parent)
            private_folder(folder)
            with self._alone():
                # held until the process ends, however it ends
                self._alive = os.open(folder / f"{self._name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._alive, fcntl.LOCK_EX)
                for kind in (*_LASTING, _GAUGES):
                    _make(folder / f"{kind}_{self._name}.db")
        except OSError as error:
            raise ConfigError(
                "TIDINGS_DATA_DIR", f"cannot write {folder}: {error.strerror}; name a folder that this user may write"
            ) from error
        os.environ[_FOLDER] = str(folder)
        values.ValueClass = values.MultiProcessValue(lambda: self._name)  # type: ignore[no-untyped-call]  # the library has no types here and below

    def text(self) -> bytes:
        """Return the sums of all processes, living and dead, in the Prometheus text format."""
        with self._alone():
            self._bury()
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
            return generate_latest(registry)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else read or bury meanwhile: what moves to the archive would be counted twice."""
        with (self._folder / "folder.guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield

    def _bury(self) -> None:
        """Move what dead processes counted to the archive."""
        for kind in _LASTING:
            self._finish(kind)
        for lock in sorted(self._folder.glob("*.lock")):
            if lock.stem != self._name and _is_free(lock):
                for kind in _LASTING:
                    self._archive(kind, self._folder / f"{kind}_{lock.stem}.db")
                (self._folder / f"{_GAUGES}_{lock.stem}.db").unlink(missing_ok=True)
                lock.unlink()

    def _archive(self, kind: str, dead: Path) -> None:
        """Write the new archive, take the dead one's file out of sight, put the archive in place.

        Whoever is killed in between leaves a state that `_finish` can tell: nothing is counted twice or not at all.
        """
        if not dead.exists():
            return
        archive, draft, buried = self._places(kind)
        _make(draft)
        sums = MmapedDict(str(draft))  # type: ignore[no-untyped-call]
        files = [str(file) for file in (archive, dead) if file.exists()]
        for metric in MultiProcessCollector.merge(files, accumulate=False):  # type: ignore[no-untyped-call]
            for sample in metric.samples:
                names, of = list(sample.labels), list(sample.labels.values())
                key = mmap_key(metric.name, sample.name, names, of, metric.documentation)
                sums.write_value(key, sample.value, 0.0)  # type: ignore[no-untyped-call]
        sums.close()  # type: ignore[no-untyped-call]
        dead.rename(buried)
        self._finish(kind)

    def _finish(self, kind: str) -> None:
        archive, draft, buried = self._places(kind)
        if buried.exists():
            # with its draft gone, the archive is in place already
            if draft.exists():
                draft.rename(archive)
            buried.unlink()
        draft.unlink(missing_ok=True)

    def _places(self, kind: str) -> tuple[Path, Path, Path]:
        return (
            self._folder / f"{kind}_archive.db",
            self._folder / f"{kind}_archive.draft",
            self._folder / f"{kind}_archive.buried",
        )


def _make(file: Path) -> None:
    """Make an empty file with room in it."""
    with file.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, _KEPT_FREE)


def _is_free(lock: Path) -> bool:
    with lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
