"""A small file system to fill up. Linux; needs the right to mount one."""

import errno
import subprocess
from pathlib import Path


class Disk:
    """A `tmpfs` of so many MB, mounted on a folder."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        """Mount it. Raises OSError where this user may not, with the reason."""
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own
        if done.returncode:
            raise PermissionError(f"a file system of {size_mb} MB cannot be mounted here: {done.stderr.strip()}")
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> int:
        """Write until there is no room left; return the number of bytes."""
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
        """Take away what `fill` wrote."""
        self._filler.unlink()

    def unmount(self) -> None:
        """Take it away, whoever still uses it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)  # noqa: S603, S607  # our own
