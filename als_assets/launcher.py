"""Starts runs as processes on this machine, and can tell when one has vanished.

Dagster's DefaultRunLauncher has no health check: a run that is killed together with its code server stays STARTED for
ever and holds its slot. This one looks for the process, so that Dagster's run monitoring ends such a run.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._serdes import ConfigurableClassData

STARTED = re.compile(r"Started process for run \(pid: (\d+)\)")
CLOCK_S = 30  # by which the clock may have been set since: a process id is not used again so soon


class WatchedRunLauncher(DefaultRunLauncher):
    """For one machine with one pid namespace. Set in dagster.yaml under `run_launcher`."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> WatchedRunLauncher:
        return cls(inst_data=inst_data, **config_value)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """FAILED when the process that said that it works on the run is gone, a zombie, or another one by now."""
        found = self.process_of(run)
        if found is None:  # anything but RUNNING would end the run, and no news is no proof; `max_runtime` still holds
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the run has not said which process works on it")
        pid, since = found
        why = vanished(pid, since)
        if why is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"process {pid} of the run {why}", transient=False)

    def process_of(self, run: DagsterRun) -> tuple[int, float] | None:
        """The pid of the process that said that it works on the run, and when it said so (seconds since 1970)."""
        connection = self._instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ENGINE_EVENT, limit=50)
        for record in connection.records:
            match = STARTED.search(record.event_log_entry.user_message or "")
            message = record.event_log_entry.dagster_event.message if record.event_log_entry.dagster_event else None
            match = match or STARTED.search(message or "")
            if match:
                return int(match[1]), record.event_log_entry.timestamp
        return None


def vanished(pid: int, seen_at: float) -> str | None:
    """Why the process `pid`, seen alive at `seen_at` (seconds since 1970), is not there any more; None when it is."""
    try:
        # the name of the program, in parentheses, may hold any character
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "is gone"
    if fields[0] in "ZX":
        return "is a zombie"
    began = _booted() + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    if began > seen_at + CLOCK_S:
        return f"is another one, begun at {datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return None


def _booted() -> float:
    """Seconds since 1970, in whole ones. Linux computes it from the present clock: it moves when the clock is set."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("btime"))
