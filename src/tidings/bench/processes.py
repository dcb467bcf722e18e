"""What a tree of processes costs, read from /proc (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path

from tidings.errors import ConfigError

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time used so far; resident size now and at its highest, of the largest one of the processes."""

    cpu_seconds: float
    memory_mb: float
    peak_memory_mb: float


def cost_of(pid: int) -> Cost:
    """Return what a process and its descendants cost. Raises ConfigError where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        raise ConfigError("tidings bench", "needs Linux: it reads CPU time and memory from /proc")
    costs = [_cost(each) for each in (pid, *_descendants(pid))]
    return Cost(
        sum(one.cpu_seconds for one in costs),
        max(one.memory_mb for one in costs),
        max(one.peak_memory_mb for one in costs),
    )


def _cost(pid: int) -> Cost:
    fields = _stat(pid)
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = {
        line.partition(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmHWM:", "VmRSS:"))
    }
    cpu = (int(fields[11]) + int(fields[12])) / _TICK
    return Cost(cpu, kilobytes.get("VmRSS", 0) / 1024, kilobytes.get("VmHWM", 0) / 1024)


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _stat(pid: int) -> list[str]:
    # the command's name may hold blanks and parentheses; the fields behind the last one are plain
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
