"""Where a place has no mount, the empty folders of its trash stay; the documentation says how to be rid of them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_command_of_the_documentation_takes_old_empty_folders_only(tmp_path: Path) -> None:
    (command,) = re.findall(r"^    (find .als-trash .*)$", (ROOT / "docs/pruning.md").read_text(), re.MULTILINE)
    trash = tmp_path / ".als-trash"
    for name in ("2026-01-01/h-1/day", "2026-01-02/h-2/day", "2026-01-03/h-3/day"):
        (trash / name).mkdir(parents=True)
    (trash / "2026-01-02/h-2/day/a.h5").write_bytes(b"is still to be deleted, or to come back")
    (trash / "2026-01-04/h-4").mkdir(parents=True)
    old = time.time() - 3 * 86400
    for path in [trash, *trash.rglob("*")]:
        if "2026-01-04" not in str(path):
            os.utime(path, (old, old))
    (tmp_path / "day").mkdir()
    os.utime(tmp_path / "day", (old, old))
    for _ in range(4):  # taking away a folder makes the one above it young
        subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True, timeout=20)
        for path in (trash / "2026-01-01", trash / "2026-01-01/h-1", trash / "2026-01-03", trash / "2026-01-03/h-3"):
            if path.exists():
                os.utime(path, (old, old))
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [
        ".als-trash", ".als-trash/2026-01-02", ".als-trash/2026-01-02/h-2", ".als-trash/2026-01-02/h-2/day",
        ".als-trash/2026-01-02/h-2/day/a.h5", ".als-trash/2026-01-04", ".als-trash/2026-01-04/h-4", "day",
    ]  # fmt: skip
