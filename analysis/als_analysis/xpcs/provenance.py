"""What an analysis ran with: versions of the software, the device, the input's digest."""

from __future__ import annotations

import hashlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from als_analysis import __version__
from als_analysis.failure import RawFileError


def software_versions() -> dict[str, str]:
    """Versions of this package, Python, and the packages that the numbers depend on."""
    found = {"als-analysis": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "h5py", "hdf5plugin", "scipy", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def device_of(kind: str, threads: int) -> dict[str, Any]:
    """The device entry of a summary: {"kind": "cpu" or "cuda", "name", "threads", "host"}."""
    if kind == "cuda":
        from als_analysis.xpcs.cuda import TorchBackend

        return {"kind": "cuda", "name": TorchBackend().name, "threads": threads, "host": platform.node()}
    model = platform.processor() or platform.machine()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"kind": "cpu", "name": model, "threads": threads, "host": platform.node()}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, streamed; raises `RawFileError`."""
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(4 << 20):
                digest.update(block)
    except OSError as error:
        raise RawFileError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()
