"""What a memory limit leaves for the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# what Python and its libraries take; a measured figure would differ from run to run, and with it where data are cut
# into blocks and bins, how sums are rounded, and whether a checkpoint fits
INTERPRETER_BYTES = 240 << 20

_GROUPS = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def cached_bytes() -> int:
    """How much of a file the page cache can hold, about: memory that nobody uses, within this process's control groups.

    0 where it cannot be found out.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
    return max(0, min([free, *_group_limits()]))


def _group_limits() -> Iterator[int]:
    """What the control groups of this process, of either version, let it have; a batch system sets them."""
    try:
        groups = [line.split(":", 2) for line in _GROUPS[0].read_text().splitlines()]
    except OSError:
        return
    for _, controllers, name in groups:
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root, file = ("", "memory.max") if controllers == "" else ("memory", "memory.limit_in_bytes")
        folder = _GROUPS[1] / root
        for part in ["", *Path(name.lstrip("/")).parts]:
            folder = folder / part
            try:
                yield int((folder / file).read_text())
            except (OSError, ValueError):
                continue  # "max", or no such file
