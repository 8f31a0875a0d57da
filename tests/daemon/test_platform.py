"""Through the real daemon, code server and run processes, against the sandbox."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from resources.scicat import SciCat

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(300)]
BURST = 6


def cut_off(path: Path) -> None:
    """A file whose writer died: HDF5's superblock promises more than there is."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)


def test_a_scan_is_noticed_copied_analysed_and_catalogued_without_anybodys_help(installation: Any) -> None:
    began = time.monotonic()
    (key,) = installation.write(1, "alone")
    (scan,) = installation.settle([key])
    seconds = time.monotonic() - began
    assert scan["state"] == "done", scan["why"]
    assert {n: a["state"] for n, a in scan["assets"].items()} == dict.fromkeys(
        ["raw_at_dtn", "raw_at_cfs", "archived_at_hpss", "xpcs_result", "catalog_entry"], "materialized"
    )
    values = scan["products"][0]["values"]
    assert len(values["contrast"]) == 4
    assert all(abs(c - 0.25) < 0.05 * 0.25 for c in values["contrast"])
    for asset in scan["assets"]:
        statuses = installation.until(
            lambda asset=asset: all_materialized(installation.statuses(asset, [key])),
            f"{asset} is green in Dagster",
            30,
        )
        assert statuses == {key: "MATERIALIZED"}
    assert scan["safe"]
    assert {e["type"] for e in scan["catalog"]} == {"raw", "derived"}
    assert entry(installation, scan["catalog"][0]["pid"])["numberOfFiles"] == 2
    print(f"a single scan from written to done: {seconds:.0f} s")
    os.utime(installation.disk)  # the sensors look again
    time.sleep(4)
    assert installation.scan(key)["state"] == "done"
    installation.nothing_was_done_twice([key])


def test_a_burst_is_a_handful_of_runs_and_a_cut_off_file_fails_alone(installation: Any) -> None:
    began = time.time()
    (bad,) = installation.write(1, "cut_off", cut_off)
    good = installation.write(BURST, "burst")
    found = {d["key"]: d for d in installation.settle([bad, *good], 200)}
    assert {found[key]["state"] for key in good} == {"done"}
    assert found[bad]["state"] == "failed"
    assert {n: a["state"] for n, a in found[bad]["assets"].items()} == {
        "raw_at_dtn": "materialized",
        "raw_at_cfs": "materialized",
        "archived_at_hpss": "materialized",
        "xpcs_result": "failed",
        "catalog_entry": "materialized",
    }
    why = found[bad]["assets"]["xpcs_result"]["why"]
    assert bad in why and "nersc" in why and "exit 3" in why and "What to do:" in why
    # exactly one red partition, in exactly one asset
    green = dict.fromkeys([bad, *good], "MATERIALIZED")
    for asset in ("raw_at_dtn", "raw_at_cfs", "archived_at_hpss", "xpcs_result", "catalog_entry"):
        wanted = {**green, bad: "FAILED"} if asset == "xpcs_result" else green
        installation.until(
            lambda asset=asset, wanted=wanted: installation.statuses(asset, [bad, *good]) == wanted,
            f"Dagster shows {asset} as it is",
            60,
        )
    (shown,) = installation.runs("bl7011__xpcs_result__scan", began)
    assert shown.status.value == "FAILURE"
    assert bad in failure_message(installation, shown.run_id)
    installation.nothing_was_done_twice(good)
    # many scans per run
    assert len(installation.runs("bl7011__raw_at_cfs__due", began)) <= 4
    assert len(installation.runs("bl7011__xpcs_result__due", began)) <= 8
    assert len(installation.runs("bl7011__catalog_entry__due", began)) <= 10


@pytest.mark.services  # for CI: 100 s of kills
def test_whatever_is_killed_costs_time_and_nothing_else(installation: Any) -> None:
    """kill -9 of a run, of the daemon, of the code server, and of everything at once with the facilities' server, while
    the scans are on their way. What is supervised is started again; each step is done once."""
    installation.fault("transfer", "slow_transfer", delay=3, path="*killed_000?.h5", count=-1)
    keys = installation.write(2, "killed")
    installation.until(lambda: all(installation.under_way(key, "raw_at_cfs") for key in keys), "both are submitted", 60)
    run = installation.until(lambda: installation.run_process("bl7011__raw_at_cfs__due"), "the run waits", 20)
    os.kill(run, signal.SIGKILL)
    installation.kill("daemon")
    installation.kill("code")
    installation.until(lambda: any(installation.begun(key, "xpcs_result") for key in keys), "analyses begin", 120)
    installation.kill_everything()
    found = installation.settle(keys, 200)
    assert [scan["state"] for scan in found] == ["done", "done"], [scan["why"] for scan in found]
    installation.nothing_was_done_twice(keys)
    for asset in found[0]["assets"]:
        wanted = dict.fromkeys(keys, "MATERIALIZED")
        installation.until(
            lambda asset=asset, wanted=wanted: installation.statuses(asset, keys) == wanted, f"{asset} is green", 60
        )


def all_materialized(statuses: dict[str, str]) -> dict[str, str] | None:
    return statuses if set(statuses.values()) == {"MATERIALIZED"} else None


def entry(installation: Any, pid: str) -> dict[str, Any]:
    os.environ.update(installation.environment)
    url = installation.environment["ALS_SANDBOX_URL"]
    found = SciCat(base_url=f"{url}/scicat/api/v3").get_dataset(pid)
    assert found is not None
    return found


def failure_message(installation: Any, run_id: str) -> str:
    records = installation.instance.get_records_for_run(run_id).records
    return "\n".join(
        str(r.event_log_entry.dagster_event.event_specific_data)
        for r in records
        if r.event_log_entry.dagster_event and r.event_log_entry.dagster_event.is_step_failure
    )
