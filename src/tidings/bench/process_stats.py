"""CPU time and memory of a process tree, read from /proc (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path

from tidings.errors import ConfigError

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """CPU time of a process tree so far, and current and peak resident memory of its largest process."""

    cpu_seconds: float
    memory_mb: float
    peak_memory_mb: float


def measure_tree_usage(pid: int) -> ProcessUsage:
    """Return the usage of a process and its descendants. Raises ConfigError where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        raise ConfigError("tidings bench", "requires Linux: it reads CPU time and memory from /proc")
    usages = [_read_usage(each) for each in (pid, *_find_descendants(pid))]
    return ProcessUsage(
        sum(usage.cpu_seconds for usage in usages),
        max(usage.memory_mb for usage in usages),
        max(usage.peak_memory_mb for usage in usages),
    )


def _read_usage(pid: int) -> ProcessUsage:
    fields = _read_stat(pid)
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = {
        line.partition(":")[0]: int(line.split()[1]) for line in status if line.startswith(("VmHWM:", "VmRSS:"))
    }
    cpu = (int(fields[11]) + int(fields[12])) / _TICK
    return ProcessUsage(cpu, kilobytes.get("VmRSS", 0) / 1024, kilobytes.get("VmHWM", 0) / 1024)


def _find_descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_find_descendants(int(child))]
    return found


def _read_stat(pid: int) -> list[str]:
    # the command name may contain blanks and parentheses, so the other fields start after the last parenthesis
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
