"""Dagster's services end with whoever started them, however that ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import PATIENCE_S, ROOT

STARTER = """
import sys, time
from pathlib import Path
from als.services import Services

class Quick(Services):
    def commands(self):
        return {"code": [sys.executable, "-c", "import time; time.sleep(600)"]}

state = Path(sys.argv[1])
(state / "logs").mkdir()
services = Quick(state, {})
services._spawn("code")
print(services.processes["code"].pid, flush=True)
time.sleep(600)
"""


def runs(process: Path) -> bool:
    try:
        return "Z (zombie)" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_starter_that_is_killed_leaves_no_service_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdout is not None
        service = Path("/proc") / starter.stdout.readline().strip()
        assert service.exists()
        starter.kill()
    until = time.monotonic() + PATIENCE_S
    while runs(service):
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.05)
