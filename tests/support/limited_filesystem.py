"""A small file system for tests of a full disk. Linux only; needs the privilege to mount."""

import errno
import subprocess
from pathlib import Path


class LimitedFilesystem:
    """A `tmpfs` of `size_mb` MB, mounted on a folder."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        """Mount the file system. Raises OSError with the reason when mounting fails."""
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # fixed arguments
        if done.returncode:
            raise PermissionError(f"a file system of {size_mb} MB cannot be mounted here: {done.stderr.strip()}")
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> int:
        """Write until the file system is full. Return the number of bytes."""
        written = 0
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        written += file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return written

    def free(self) -> None:
        """Delete what `fill` wrote."""
        self._filler.unlink()

    def unmount(self) -> None:
        """Unmount the file system, even while it is in use."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)  # fixed arguments
