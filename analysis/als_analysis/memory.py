"""How much memory this process holds now."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def resident_bytes() -> int:
    """Resident memory in bytes. Not `ru_maxrss`: a child begins with its parent's maximum there."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # no such file system: better too much than nothing
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
