"""Files that are there whole or not at all: written beside, synced, renamed."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from als_analysis.failure import OutputError


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """Give a temporary path in `target`'s directory; on success sync and rename it onto `target`, otherwise remove it.

    Raises `OutputError` where the directory cannot be made or written.
    """
    beside = target.with_name(f".{target.name[:120]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        descriptor = os.open(beside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(target)
    except OSError as error:
        # h5py and open() both raise OSError; whoever reads inside this block turns reading errors into failures first
        raise OutputError(f"{target}: cannot be written: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Replace `target` by `content`, atomically."""
    with written_beside(target) as beside:
        beside.write_bytes(content)


def write_json(target: Path, document: Any) -> None:
    """Replace `target` by `document` as JSON, atomically; NaN and infinities become null, as JSON has none."""
    write_bytes(target, (json.dumps(json_safe(document), ensure_ascii=False, indent=1) + "\n").encode())


def json_safe(value: Any) -> Any:
    """`value` with numpy scalars and arrays as plain Python, and NaN or infinity as None."""
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy here
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Path):
        return str(value)
    return value
