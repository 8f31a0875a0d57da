"""Jobs through the sandbox's real Slurm, from the request that the platform makes to every way in which they end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sfapi_client import Client
from sfapi_client.exceptions import SfApiError

from resources.job_script import render
from sandbox import jobs, slurm, slurm_jobs
from sandbox.sfapi_sbatch import parse
from sandbox.slurm import Slurm
from sandbox.slurm_rules import QOS, Refused, check
from tests.conftest import PATIENCE_S, Sandbox

pytestmark = [
    pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing())),
    pytest.mark.usefixtures("limited"),  # begins early
]

SHARED = {"account": "als", "qos": "shared", "constraint": "cpu", "time": "5", "nodes": 1}
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


def connected(sandbox: Any) -> Client:
    api, token = sandbox.url + "/sfapi/api/v1.2", sandbox.url + "/sfapi/token"
    return Client(key=str(sandbox.dir / "sfapi_key.json"), api_base_url=api, token_url=token, wait_interval=1)


@pytest.fixture
def client(slurm_sandbox: Any) -> Iterator[Client]:
    with connected(slurm_sandbox) as one:
        yield one


def als_job(sandbox: Any, key: str, *commands: list[str], **directives: Any) -> str:
    job = {
        "schema": "als-job/1", "key": key, "attempt_dir": f"{sandbox.dir}/nersc/scratch/{key}",
        "commands": [{"id": f"c{n}", "argv": argv} for n, argv in enumerate(commands)],
    }  # fmt: skip
    return render(key, {**SHARED, **directives}, "als-job", job)


def outcome(sandbox: Any, key: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((sandbox.dir / "nersc" / "scratch" / key / "outcome.json").read_text())
    return document


def bash(body: str, name: str = "job", *lines: str) -> str:
    more = "".join(f"#SBATCH {line}\n" for line in lines)
    return f"#!/bin/bash\n#SBATCH -J {name} -A als -q shared -C cpu -t 5\n{more}{body}\n"


def submit(client: Client, script: str) -> str:
    return str(client.compute("perlmutter").submit_job(script).jobid)


def row(client: Client, job_id: str, sacct: bool = True) -> dict[str, Any]:
    params = {"sacct": sacct, "cached": False, "kwargs": [f"jobid={job_id}"]}
    rows: list[dict[str, Any]] = client.get("compute/jobs/perlmutter", params).json()["output"]
    return rows[0] if rows else {}


def wait(client: Client, job_id: str, *states: str, seconds: float = 90) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while (found := row(client, job_id)).get("state", "").split(" ")[0] not in (set(states) or ENDED):
        assert time.monotonic() < until, f"job {job_id} is {found.get('state')}"
        time.sleep(0.05)
    return found


def slurm_says(sandbox: Any, job_id: str) -> dict[str, str]:
    return slurm_jobs.show(Slurm(sandbox.dir))[job_id]


# one scan's path


def test_a_scans_job_is_claimed_run_and_reported_and_a_second_of_its_key_is_a_duplicate(
    slurm_sandbox: Any, client: Client
) -> None:
    script = als_job(slurm_sandbox, "als-1", ["als-describe", "--help"], ["false"])
    first, second = submit(client, script), submit(client, script)
    ends = {wait(client, job_id)["exitcode"]: job_id for job_id in (first, second)}
    assert len(ends) == 2
    duplicate = ends.pop("17:0")
    (winner,) = ends.values()
    claim = slurm_sandbox.dir / "nersc" / "scratch" / "als-1" / "claim"
    assert [c["exit"] for c in outcome(slurm_sandbox, "als-1")["commands"]] == [0, 1]
    assert winner in (text := "".join(path.read_text() for path in claim.iterdir()))
    assert duplicate not in text
    assert slurm_sandbox.executions("sfapi") == {"als-1": 1}


def test_a_cancelled_job_ends_its_command_and_still_writes_its_outcome(slurm_sandbox: Any, client: Client) -> None:
    up = slurm_sandbox.dir / "nersc" / "home" / "up"
    job_id = submit(client, als_job(slurm_sandbox, "als-1", ["bash", "-c", f"touch {up}; exec sleep 300"]))
    until = time.monotonic() + PATIENCE_S
    while not up.exists():
        assert time.monotonic() < until
        time.sleep(0.03)
    client.delete(f"compute/jobs/perlmutter/{job_id}")
    assert wait(client, job_id)["state"] == f"CANCELLED by {jobs.UID}"
    assert slurm_says(slurm_sandbox, job_id)["JobState"] == "CANCELLED"
    assert [c["exit"] != 0 for c in outcome(slurm_sandbox, "als-1")["commands"]] == [True]


# how jobs end


def test_jobs_can_be_made_to_end_in_slurms_ways_before_they_do_anything(slurm_sandbox: Any, client: Client) -> None:
    kinds = [kind for kind in jobs.END_STATES if kind != "time_limit"]
    for kind in kinds:
        slurm_sandbox.fault("sfapi", kind, path=f"als-{kind}")
    doomed = {kind: submit(client, bash("echo ran >> ran", f"als-{kind}")) for kind in kinds}
    spared = submit(client, bash("echo spared >> ran", "als-spared"))
    ends = {kind: wait(client, job_id)["state"].split()[0] for kind, job_id in doomed.items()}
    assert ends == {kind: jobs.END_STATES[kind] for kind in kinds}
    assert wait(client, spared)["state"] == "COMPLETED"
    assert (slurm_sandbox.dir / "nersc" / "home" / "ran").read_text() == "spared\n"
    assert slurm_sandbox.executions("sfapi") == {"als-spared": 1}
    for kind in ("node_fail", "preempted", "cancelled", "failed"):  # Slurm itself, not the sandbox over it
        assert slurm_says(slurm_sandbox, doomed[kind])["JobState"] == jobs.END_STATES[kind]
    nodes = Slurm(slurm_sandbox.dir).run(["scontrol", "-o", "show", "node"])
    assert "DOWN" not in nodes  # the node that failed has come back


def test_a_job_that_takes_more_memory_than_it_asked_for_is_out_of_memory(client: Client) -> None:
    take = "exec python3 -c 'import time; x = bytearray(200 << 20); time.sleep(30)'"
    assert wait(client, submit(client, bash(take, "job", "--mem=50M")))["state"] == "OUT_OF_MEMORY"


def test_a_job_over_its_time_limit_gets_term_and_writes_its_outcome(limited: tuple[Sandbox, str]) -> None:
    server, job_id = limited
    with connected(server) as one:
        assert wait(one, job_id, seconds=90)["state"] == "TIMEOUT"
    assert slurm_says(server, job_id)["JobState"] == "TIMEOUT"
    assert [c["exit"] != 0 for c in outcome(server, "als-limited")["commands"]] == [True]


# what Slurm does with the directives


REFUSED = [
    "-q debug -C cpu", "-A nobody -q debug -C cpu", "-A als -q fast -C cpu", "-A als -q debug", "-A als -C cpu -t 31",
    *(f"-A als -q {name} -C cpu -t {qos.time_s // 60 + 1}" for name, qos in QOS.items()),
    "-A als -q xfer --mem=20G", "-A als -q xfer --mem=2049M", "-A als -q debug -C knl", "-A als_g -q shared -C cpu&x",
    "-A als -q debug -C cpu -L nothing", "-A als -q debug -C cpu -J two words", "-A als -q debug -C cpu --frobnicate",
    "-A als -q debug -C cpu -t soon",
]  # fmt: skip


def test_slurm_refuses_in_the_same_words_as_the_sandbox_without_it(client: Client) -> None:
    for lines in REFUSED:
        script = f"#!/bin/bash\n#SBATCH {lines}\ntrue\n"
        with pytest.raises(SfApiError) as refusal:
            client.compute("perlmutter").submit_job(script)
        with pytest.raises(Refused) as expected:
            check(parse(script), ["als"])
        assert refusal.value.message.strip() == str(expected.value).strip(), lines


def test_what_nersc_takes_slurm_takes(slurm_sandbox: Any, client: Client) -> None:
    lines = [
        "-A als -q xfer --mem=2G -t 10", "-A als_g -q regular -C gpu&hbm80g --gpus=4 -L SCRATCH,cfs:1 -t 48:00:00",
        "-A als -q realtime -C cpu -N 2", "-A als -C cpu --gpus-per-task=0 --ntasks=2",
    ]  # fmt: skip
    ids = [submit(client, f"#!/bin/bash\n#SBATCH {line}\ntrue\n") for line in lines]
    done = [wait(client, job_id) for job_id in ids]
    assert [d["state"] for d in done] == ["COMPLETED"] * 4
    assert [d["nodelist"] for d in done][:2] == ["nid000007", "nid000006"]
    assert [(d["account"], d["qos"]) for d in done] == [
        ("als", "xfer"), ("als_g", "regular"), ("als", "realtime"), ("als", "debug")
    ]  # fmt: skip


def test_a_project_that_is_added_later_may_submit(slurm_sandbox: Any, client: Client) -> None:
    script = bash("true").replace("-A als", "-A late")
    with pytest.raises(SfApiError, match="Invalid account"):
        client.compute("perlmutter").submit_job(script)
    jobs.configure(slurm_sandbox.box, projects=["als", "late"])
    assert submit(client, script)


def test_jobs_beyond_the_room_wait_with_a_reason_and_run_in_order(slurm_sandbox: Any, client: Client) -> None:
    order: Path = slurm_sandbox.dir / "nersc" / "home" / "order"
    body = "until [ -e go ]; do sleep 0.05; done; echo {} >> order"
    ids = [submit(client, bash(body.format(n), "job", "-N 4 --exclusive")) for n in range(3)]
    until = time.monotonic() + PATIENCE_S
    while row(client, ids[2], sacct=False)["reason"] not in ("Priority", "Resources"):
        assert time.monotonic() < until
        time.sleep(0.03)
    assert row(client, ids[2], sacct=False)["state"] == "PENDING"
    (order.parent / "go").touch()
    assert [wait(client, job_id)["state"] for job_id in ids] == ["COMPLETED"] * 3
    assert order.read_text().split() == ["0", "1", "2"]
