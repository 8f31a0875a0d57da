"""als-archive in an xfer job at the sandbox's NERSC, as the platform submits it."""

from __future__ import annotations

import json
import time
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sfapi_client import Client

from sandbox import hpss
from tests.conftest import PATIENCE_S

SCRIPT = """#!/bin/bash
#SBATCH -J als-x -A als -q xfer --time=60 --mem=2G
als-job run {request}
"""


def run_job(sandbox: Any, attempt: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Submit, wait; returns the job's state and the outcome of the one command in it."""
    home = sandbox.dir / "nersc" / "scratch" / attempt
    home.mkdir(parents=True)
    commands = [{"id": "x", "argv": ["als-archive", "store"], "input": request}]
    document = {"schema": "als-job/1", "key": "als-x", "attempt_dir": str(home / "job"), "commands": commands}
    (home / "request.json").write_text(json.dumps(document))
    api = sandbox.url + "/sfapi"
    with Client(key=str(sandbox.dir / "sfapi_key.json"), api_base_url=api + "/api/v1.2", token_url=api + "/token") as c:
        job = c.compute("perlmutter").submit_job(SCRIPT.format(request=home / "request.json"))
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            job.update()
            if job.state.value not in ("PENDING", "RUNNING"):
                break
            time.sleep(0.1)
    outcome = json.loads((home / "job" / "outcome.json").read_text())
    return job.state.value, outcome["commands"][0]


def test_hpss_mistake_10_a_failed_job_has_no_result_and_the_next_one_stores_the_archive(sandbox: Any) -> None:
    raw = sandbox.dir / "nersc" / "cfs" / "scan;1 $x.h5"
    raw.write_bytes(b"raw" * 1000)
    out = sandbox.dir / "nersc" / "scratch" / "out"
    file = {"path": str(raw), "name": raw.name, "bytes": 3000, "sha256": None}
    archive = "/home/a/als/7.0.1.1/scan.tar"
    request = {"schema": "als-archive/1", "archive": archive, "files": [file], "out": str(out)}
    hpss.configure(sandbox.box, down=True)
    state, ended = run_job(sandbox, "a1", request)
    assert (state, ended["exit"]) == ("FAILED", 69) and "HPSS is not available" in ended["message"]
    assert not (out / "archive.json").exists()
    hpss.configure(sandbox.box, down=False)
    state, ended = run_job(sandbox, "a2", request)
    assert (state, ended["exit"]) == ("COMPLETED", 0), ended
    assert json.loads((out / "archive.json").read_text())["members"][0]["name"] == raw.name
    assert hpss.hpss_path(sandbox.box, archive).exists()
