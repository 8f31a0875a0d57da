"""What a burst of scans costs the platform, through the real daemon: `python benchmarks/burst.py [--scans 100]`.

Prints one JSON document: how many runs the burst became, scans per minute, CPU seconds per scan of the orchestration
(code server, daemon and runs; the facilities' transfers and jobs are not counted), and how long a single scan takes
from settled to catalogued. The ratio compares with one run per scan and asset, measured in the same invocation: the
CPU of a process that materializes one asset that does nothing, times the scans, times the assets of the beamline.
"""

from __future__ import annotations

import argparse
import json
import os
import platform as machine
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster as dg

from als import platform, sandbox, simulate
from als.demo import watched_folder
from als.services import Services, running
from resources.ledger import Ledger, scans
from resources.ledger.views import scan_document

TRIVIAL = "import dagster as dg\n@dg.asset\ndef one() -> None: ...\ndg.materialize([one])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beamline", default="bl7011")
    parser.add_argument("--scans", type=int, default=100)
    parser.add_argument("--timeout", type=float, default=900)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="als-benchmark-") as folder:
        state = Path(folder)
        try:
            os.environ.update(sandbox.up(state / "sandbox"), ALS_STATE=str(state))
            print(json.dumps(measure(state, options), indent=1))
        finally:
            sandbox.down(state / "sandbox")


def measure(state: Path, options: argparse.Namespace) -> dict[str, Any]:
    spec = platform.spec_of(options.beamline)
    disk = watched_folder(state / "sandbox", spec)
    per_run = trivial_run()
    with running(Services(state, {}, web=False)) as services:
        ledger = platform.ledger(created=True)
        instance = dg.DagsterInstance.from_config(str(state))
        simulate.copies(disk, 1, 1)
        single = settle(ledger, spec, 1, options.timeout)
        before = instance.get_runs_count()
        cpu_before = cpu(services)
        began = time.monotonic()
        simulate.copies(disk, options.scans, 2)
        settle(ledger, spec, options.scans + 1, options.timeout)
        wall = time.monotonic() - began
        spent = cpu(services) - cpu_before
        runs = instance.get_runs_count() - before
        instance.dispose()
    naive = per_run * options.scans * (len(spec.assets()) - 1)
    return {
        "schema": "als-benchmark-platform/1",
        "machine": {"cpus": os.cpu_count(), "python": machine.python_version(), "system": machine.platform()},
        "single_scan_settled_to_catalogued_s": round(single, 1),
        "burst": {
            "scans": options.scans,
            "wall_s": round(wall, 1),
            "runs": runs,
            "scans_per_minute": round(60 * options.scans / wall, 1),
            "cpu_s_per_scan": round(spent / options.scans, 3),
            "peak_memory_mb_of_a_child": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        },
        "cpu_of_one_run_per_scan_and_asset_over_ours": round(naive / spent, 1),
        "trivial_run_cpu_s": round(per_run, 2),
    }


def settle(ledger: Ledger, spec: Any, count: int, timeout: float) -> float:
    """Until so many scans are done; returns the seconds from the first notice to the last entry in the catalogue."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        with ledger.read() as tx:
            found = [scan_document(tx, spec, s, set(), ledger.now()) for s in scans.latest(tx, spec.id, count + 1)]
        if len(found) == count and all(d["state"] == "done" for d in found):
            noticed = min(d["noticed_at"] for d in found)
            entered = max(d["assets"]["catalog_entry"]["at"] for d in found)
            return (_moment(entered) - _moment(noticed)).total_seconds()
        time.sleep(1)
    states = [(d["key"], d["state"], d["why"]) for d in found if d["state"] != "done"]
    raise SystemExit(f"not done within {timeout} s: {len(found)} of {count} noticed, open: {states[:5]}")


def _moment(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def cpu(services: Services) -> float:
    """CPU seconds of the services and of all the runs that they have started and reaped, from /proc."""
    ticks = 0
    for process in services.processes.values():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def trivial_run() -> float:
    """CPU seconds of a process that materializes one asset that does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", TRIVIAL], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
