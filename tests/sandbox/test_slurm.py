"""The sandbox's own Slurm: which daemons run, what they survive, and that no other Slurm is touched."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from als import sandbox as als_sandbox
from sandbox import jobs, slurm, slurm_config, slurm_jobs, workers
from sandbox.slurm import Slurm
from sandbox.slurm_config import CONTROLLER, DAEMONS
from tests.conftest import Sandbox

_absent = pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing()))


def needs_slurm(test: Callable[..., None]) -> Callable[..., None]:
    return _absent(pytest.mark.usefixtures("limited")(test))  # which begins early


SCRIPT = "#!/bin/bash\n#SBATCH -J {name} -A als -q shared -C cpu -t 5\n{body}\n"


def submit(sandbox: Any, body: str, name: str = "job") -> str:
    script = SCRIPT.format(name=name, body=body)
    options = {"name": name, "account": "als", "qos": "shared", "constraint": "cpu", "time": "5"}
    job_id = slurm_jobs.admit(sandbox.box, slurm_jobs.job_document(sandbox.box, options), options, script)
    jobs.ensure(sandbox.box)
    return job_id


def until(true: Callable[[], Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.03)
    return found


def job(sandbox: Any, job_id: str) -> dict[str, Any]:
    slurm_jobs.sync(sandbox.box)
    document: dict[str, Any] = sandbox.box.get("slurm_job", job_id)
    return document


def ended(sandbox: Any, job_id: str, seconds: float = 90) -> str:
    return str(until(lambda: (found := job(sandbox, job_id))["end"] and found["state"], seconds))


def pids(sandbox: Any) -> dict[str, int | None]:
    return {daemon: Slurm(sandbox.dir).pid(daemon) for daemon in DAEMONS}


def _listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Sandbox]:
    """A folder of its own, for what would spoil the session's."""
    server = Sandbox(tmp_path / "box", "--slurm")
    try:
        yield server
    finally:
        server.down()


# no other Slurm


@needs_slurm
def test_another_slurm_that_the_environment_names_is_never_contacted(
    fresh: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        host = socket.gethostname().partition(".")[0]
        decoy = tmp_path / "slurm.conf"
        decoy.write_text(
            f"ClusterName=production\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={other.getsockname()[1]}\n"
            "AuthType=auth/none\nCredType=cred/none\nNodeName=n1\nPartitionName=p Nodes=n1\n"
        )
        for name, value in {"SLURM_CONF": str(decoy), "SBATCH_PARTITION": "p", "SLURM_CLUSTERS": "production"}.items():
            monkeypatch.setenv(name, value)
        fresh.start()
        assert ended(fresh, submit(fresh, "true")) == "COMPLETED"
        assert not select.select([other], [], [], 0)[0], "somebody has knocked there"
        monkeypatch.delenv("SLURM_CLUSTERS")
        with subprocess.Popen(["squeue"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as careless:
            assert select.select([other], [], [], 10)[0]
            careless.kill()


@needs_slurm
def test_everything_listens_on_loopback_only(slurm_sandbox: Any) -> None:
    ours = {f"{port:04X}" for port in Slurm(slurm_sandbox.dir).ports().values()}
    table = [
        line.split()[1:4] for path in ("tcp", "tcp6") for line in Path(f"/proc/net/{path}").read_text().splitlines()
    ]
    listening = {local.rpartition(":")[2]: local for local, _, state in table if state == "0A"}
    assert {listening[port] for port in ours} == {f"0100007F:{port}" for port in ours}


# life and death


@needs_slurm
def test_a_killed_server_leaves_slurm_running_and_the_next_one_adopts_it(slurm_sandbox: Any) -> None:
    go = slurm_sandbox.dir / "nersc" / "home" / "go"
    job_id = submit(slurm_sandbox, "echo once >> log; until [ -e go ]; do sleep 0.05; done; exit 3")
    until(lambda: job(slurm_sandbox, job_id)["state"] == "RUNNING")
    before = pids(slurm_sandbox)
    slurm_sandbox.kill()
    assert pids(slurm_sandbox) == before
    slurm_sandbox.options, options = (), slurm_sandbox.options  # nobody has to remember that it was started with Slurm
    try:
        slurm_sandbox.start()
    finally:
        slurm_sandbox.options = options
    assert pids(slurm_sandbox) == before
    go.touch()
    assert ended(slurm_sandbox, job_id) == "FAILED"
    assert job(slurm_sandbox, job_id)["exit_code"] == 3
    assert (slurm_sandbox.dir / "nersc" / "home" / "log").read_text() == "once\n"


@needs_slurm
def test_killed_daemons_come_back_and_the_job_that_runs_goes_on(slurm_sandbox: Any) -> None:
    job_id = submit(slurm_sandbox, "echo once >> log; until [ -e go ]; do sleep 0.05; done; exit 3")
    until(lambda: job(slurm_sandbox, job_id)["state"] == "RUNNING")
    Slurm(slurm_sandbox.dir).run(["scontrol", "update", f"JobId={job_id}", "Comment=running"])
    state = slurm_sandbox.dir / "slurm" / "state" / "job_state"
    until(lambda: b"running" in state.read_bytes())  # slurmctld forgets what it has not saved, within five seconds
    for killed in (("nid000001", "nid000002"), (CONTROLLER,), DAEMONS):
        before = pids(slurm_sandbox)
        for daemon in killed:
            os.kill(before[daemon] or 0, signal.SIGKILL)
        until(lambda killed=killed, old=before: all(pids(slurm_sandbox)[d] not in (None, old[d]) for d in killed))
        assert job(slurm_sandbox, job_id)["state"] == "RUNNING"
    (slurm_sandbox.dir / "nersc" / "home" / "go").touch()
    assert ended(slurm_sandbox, job_id) == "FAILED"
    assert job(slurm_sandbox, job_id)["exit_code"] == 3
    assert (slurm_sandbox.dir / "nersc" / "home" / "log").read_text() == "once\n"


@needs_slurm
@pytest.mark.parametrize("daemon", [CONTROLLER, "nid000001"])
@pytest.mark.parametrize("listening", [False, True])
def test_a_daemon_that_was_just_started_as_its_starter_died_does_not_stay_beside_the_next_one(
    slurm_sandbox: Any, daemon: str, listening: bool
) -> None:
    job_id = submit(slurm_sandbox, "until [ -e go ]; do sleep 0.05; done; exit 3")
    until(lambda: job(slurm_sandbox, job_id)["state"] == "RUNNING")
    ours = Slurm(slurm_sandbox.dir)
    ours.run(["scontrol", "update", f"JobId={job_id}", "Comment=running"])
    until(lambda: b"running" in (ours.dir / "state" / "job_state").read_bytes())
    ports = ours.ports()
    with ours._alone():
        os.kill(ours.pid(daemon) or 0, signal.SIGKILL)
        until(lambda: not ours.processes()[daemon])
        ours._spawn(daemon)
        if listening:
            until(lambda: ours.pid(daemon) and _listens(ports[daemon]))
            (ours.dir / f"{daemon}.pid").unlink()
    until(lambda: all(pids(slurm_sandbox).values()))
    assert ours.processes() == {n: [pid] for n, pid in pids(slurm_sandbox).items()}
    assert ours.ports() == ports  # which the job's own process reports to
    (slurm_sandbox.dir / "nersc" / "home" / "go").touch()
    assert ended(slurm_sandbox, job_id) == "FAILED"


@needs_slurm
def test_a_job_that_slurm_forgot_is_a_node_failure_and_its_number_is_not_used_again(slurm_sandbox: Any) -> None:
    job_id = submit(slurm_sandbox, "sleep 60")
    until(lambda: job(slurm_sandbox, job_id)["state"] == "RUNNING")
    controller = pids(slurm_sandbox)[CONTROLLER]
    state = slurm_sandbox.dir / "slurm" / "state"
    os.kill(controller or 0, signal.SIGSTOP)  # it must not write while its files go, nor be restarted before
    for path in state.glob("job_state*"):
        path.unlink()
    os.kill(controller or 0, signal.SIGKILL)
    until(lambda: pids(slurm_sandbox)[CONTROLLER] != controller)  # it is asked as long as it is not quite gone
    assert ended(slurm_sandbox, job_id) == "NODE_FAIL"
    assert int(submit(slurm_sandbox, "true")) > int(job_id)


@needs_slurm
def test_a_job_that_was_submitted_as_the_server_died_is_known_to_the_next(slurm_sandbox: Any) -> None:
    ours = Slurm(slurm_sandbox.dir)
    words = ["sbatch", "--parsable", "-J", "als-lost", "-A", "als_g", "-q", "shared", "-C", "cpu", "-o", "/dev/null"]
    job_id = ours.run([*words, "--wrap", "true"]).strip()
    assert ended(slurm_sandbox, job_id) == "COMPLETED"
    found = job(slurm_sandbox, job_id)
    assert (found["name"], found["account"], found["qos"]) == ("als-lost", "als_g", "shared")
    assert slurm_sandbox.executions("sfapi") == {"als-lost": 1}


@needs_slurm
def test_down_ends_daemons_and_jobs_and_the_next_up_may_be_without_slurm(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    als_sandbox.up(folder)
    with pytest.raises(als_sandbox.SandboxProblem, match="up without Slurm"):
        als_sandbox.up(folder, slurm=True)
    assert als_sandbox.down(folder)
    als_sandbox.up(folder, slurm=True)
    one = Sandbox(folder)
    job_id = submit(one, "sleep 61 & echo $! > pid; wait")
    pid = int(until(lambda: (p := folder / "nersc" / "home" / "pid").exists() and p.read_text()))
    daemons = pids(one)
    assert als_sandbox.down(folder)
    assert workers.of(folder.resolve()) == []
    assert [p for p in (pid, *daemons.values()) if jobs.started(p or 0) is not None] == []
    als_sandbox.up(folder)
    try:
        assert one.box.get("slurm_job", job_id)["state"] == "NODE_FAIL"
        assert not any(pids(one).values())
    finally:
        assert als_sandbox.down(folder)


# when it cannot be


def test_a_machine_without_slurm_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sandbox.server import serve

    monkeypatch.setattr(slurm, "PATH", str(tmp_path))
    assert serve(tmp_path / "box", real_slurm=True) == 1
    assert "apt-get install --no-install-recommends slurm-wlm" in capsys.readouterr().err


def test_a_folder_that_slurm_cannot_use_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose another --dir"):
        slurm_config.write(tmp_path / "two words", dict.fromkeys(DAEMONS, 1), 33_000_001, ["als"])


def test_a_long_folder_has_a_short_name_that_only_its_owner_can_use(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    short = slurm_config.spool(folder)
    assert short.resolve() == folder.resolve()
    assert len(str(short)) < 50
    short.parent.chmod(0o755)  # as if somebody else had made it before
    with pytest.raises(ValueError, match="somebody else"):
        slurm_config.spool(folder)
    short.unlink()
    short.parent.rmdir()


@needs_slurm
def test_a_port_that_somebody_else_has_taken_is_replaced(fresh: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        folder = fresh.dir / "slurm"
        folder.mkdir()
        ours = Slurm(fresh.dir)
        ours._write_ports()
        (folder / "ports.json").write_text(json.dumps({**ours.ports(), CONTROLLER: taken}))
        fresh.start()
        assert ours.ports()[CONTROLLER] != taken
        assert all(pids(fresh).values())
