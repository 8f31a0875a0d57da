"""The sandbox's Superfacility API as NERSC's own client meets it, unmodified."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sfapi_client import Client
    from sfapi_client.exceptions import SfApiError
    from sfapi_client.jobs import JobCommand

from sandbox import jobs, sfapi_auth, workers
from tests.conftest import PATIENCE_S, in_real_slurm_too

HEAD = "#!/bin/bash\n#SBATCH -J {name} -A als -q debug\n#SBATCH --constraint=cpu --time={time}\n{more}"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


def script(body: str, name: str = "job", limit: str = "5", more: str = "") -> str:
    return HEAD.format(name=name, time=limit, more=f"#SBATCH {more}\n" if more else "") + body + "\n"


@pytest.fixture
def client(sandbox: Any) -> Iterator[Client]:
    with connected(sandbox) as one:
        yield one


def connected(sandbox: Any) -> Client:
    return Client(
        key=str(sandbox.dir / "sfapi_key.json"),
        api_base_url=sandbox.url + "/sfapi/api/v1.2",
        token_url=sandbox.url + "/sfapi/token",
        wait_interval=1,
    )


def rows(client: Client, *ids: str, sacct: bool = True) -> list[dict[str, Any]]:
    params = {"sacct": sacct, "cached": False, "kwargs": [f"jobid={','.join(ids)}"]}
    output: list[dict[str, Any]] = client.get("compute/jobs/perlmutter", params).json()["output"]
    return output


def wait(client: Client, job_id: str, *states: str, seconds: float = PATIENCE_S) -> dict[str, Any]:
    """The job's row in sacct, once its state is one of these (default: an end)."""
    wanted = set(states) or ENDED
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = rows(client, job_id)
        if found and found[0]["state"].split()[0] in wanted:
            return found[0]
        time.sleep(0.03)
    raise AssertionError(f"job {job_id} is {rows(client, job_id)[0]['state']}, not one of {wanted}")


def output(sandbox: Any, job_id: str) -> str:
    path = sandbox.dir / "nersc" / "home" / f"slurm-{job_id}.out"
    return str(path.read_text()) if path.exists() else ""


# sign-in


def test_a_sign_in_needs_the_key_of_the_client(sandbox: Any, tmp_path: Path) -> None:
    strange = sfapi_auth.make_client()
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"client_id": sfapi_auth.client(sandbox.box)["client_id"], "secret": strange["secret"]}))
    key.chmod(0o600)
    with pytest.raises(Exception, match="invalid_client"):
        Client(key=str(key), token_url=sandbox.url + "/sfapi/token").token  # noqa: B018


@pytest.mark.parametrize(
    "wrong", [{"aud": "http://elsewhere/token"}, {"exp": time.time() - 600}, {"iss": "somebodyelse1"}, {"exp": None}]
)
def test_an_assertion_for_somebody_else_or_another_time_is_refused(sandbox: Any, wrong: dict[str, Any]) -> None:
    url, known = sandbox.url + "/sfapi/token", sfapi_auth.client(sandbox.box)

    def ask(change: dict[str, Any]) -> int:
        who = known["client_id"]
        claims = {"iss": who, "sub": who, "aud": url, "exp": int(time.time()) + 60, **change}
        claims = {name: value for name, value in claims.items() if value is not None}
        assertion = jwt.encode(claims, jwt.PyJWK(known["secret"]).key, algorithm="RS256")
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": sfapi_auth.ASSERTION,
            "client_assertion": assertion,
        }
        return httpx.post(url, data=form).status_code

    assert ask({}) == 200
    assert ask(wrong) == 401


def test_a_call_without_a_token_or_with_a_revoked_one_is_turned_away(sandbox: Any, client: Client) -> None:
    assert httpx.get(sandbox.url + "/sfapi/api/v1.2/account/").status_code == 401
    assert client.user().name == "als"
    sfapi_auth.revoke_tokens(sandbox.box)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        client.user()


def test_only_a_red_client_may_submit_jobs_and_run_commands(sandbox: Any, client: Client) -> None:
    jobs.configure(sandbox.box, colour="blue")
    machine = client.compute("perlmutter")
    for forbidden in (lambda: machine.submit_job(script("true")), lambda: machine.run("true")):
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            forbidden()
    assert client.user().projects()[0].repo_name == "als"


# jobs


@in_real_slurm_too
def test_a_job_runs_its_script_in_slurms_environment(sandbox: Any, client: Client) -> None:
    job = client.compute("perlmutter").submit_job(script('echo "$SLURM_JOB_ID $SLURM_JOB_NAME $(command -v als-job)"'))
    done = wait(client, job.jobid)
    assert (done["state"], done["exitcode"], done["jobname"]) == ("COMPLETED", "0:0", "job")
    job_id, name, program = output(sandbox, job.jobid).split()
    assert (job_id, name) == (job.jobid, "job")
    assert Path(program).name == "als-job"


@in_real_slurm_too
def test_a_job_sees_nothing_of_the_servers_environment(sandbox: Any, client: Client) -> None:
    job = client.compute("perlmutter").submit_job(script("env"))
    wait(client, job.jobid)
    names = {line.partition("=")[0] for line in output(sandbox, job.jobid).splitlines()}
    allowed = {"PATH", "HOME", "USER", "LANG", "NERSC_HOST", "SCRATCH", "CFS", "PWD", "SHLVL", "_", "SANDBOX_OF"}
    allowed |= {"ENVIRONMENT", "HOSTNAME", "SLURMD_NODENAME", "TMPDIR"}  # which slurmd sets
    assert {name for name in names if not name.startswith("SLURM_")} <= allowed


@in_real_slurm_too
def test_a_script_that_fails_is_failed_with_its_exit_code(client: Client) -> None:
    job = client.compute("perlmutter").submit_job(script("exit 3"))
    done = wait(client, job.jobid)
    assert (done["state"], done["exitcode"]) == ("FAILED", "3:0")


@in_real_slurm_too
def test_output_error_and_directory_go_where_the_script_says(sandbox: Any, client: Client) -> None:
    folder = sandbox.dir / "nersc" / "scratch" / "run"
    folder.mkdir()
    body = script("pwd; echo trouble >&2", name="named", more=f"-D {folder} -o {folder}/%x-%j.log -e {folder}/err")
    job = client.compute("perlmutter").submit_job(body)
    wait(client, job.jobid)
    assert (folder / f"named-{job.jobid}.log").read_text() == f"{folder}\n"
    assert (folder / "err").read_text() == "trouble\n"


def test_a_job_over_its_time_limit_is_ended_with_term_and_then_kill(sandbox: Any, client: Client) -> None:
    jobs.configure(sandbox.box, kill_wait_s=0.3)
    machine = client.compute("perlmutter")
    kind = machine.submit_job(script("trap 'echo bye; exit 0' TERM; sleep 30 & wait", limit="0:02"))
    stubborn = machine.submit_job(script("trap '' TERM; while :; do sleep 0.1; done", limit="0:02"))
    assert wait(client, kind.jobid)["state"] == "TIMEOUT"
    assert wait(client, stubborn.jobid)["state"] == "TIMEOUT"
    assert output(sandbox, kind.jobid) == "bye\n"


def test_the_script_is_warned_before_its_time_limit_where_it_asks_for_it(sandbox: Any, client: Client) -> None:
    body = script(
        "trap 'echo warned; exit 0' USR1; while :; do sleep 0.05; done", limit="0:30", more="--signal=B:USR1@28"
    )
    job = client.compute("perlmutter").submit_job(body)
    assert wait(client, job.jobid)["state"] == "COMPLETED"
    assert output(sandbox, job.jobid) == "warned\n"


@in_real_slurm_too
def test_a_cancelled_job_gets_term_and_says_who_cancelled_it(sandbox: Any, client: Client) -> None:
    machine = client.compute("perlmutter")
    job = machine.submit_job(script("trap 'sleep 0.3; echo term; exit 1' TERM; echo up; while :; do sleep 0.05; done"))
    until = time.monotonic() + PATIENCE_S
    while "up" not in output(sandbox, job.jobid):
        assert time.monotonic() < until
        time.sleep(0.03)
    job.cancel()
    assert wait(client, job.jobid)["state"] == f"CANCELLED by {jobs.UID}"
    lines = output(sandbox, job.jobid).splitlines()
    assert (lines[0], lines[-1]) == ("up", "term")


@in_real_slurm_too
def test_nothing_of_a_job_outlives_it(sandbox: Any, client: Client) -> None:
    job = client.compute("perlmutter").submit_job(script("sleep 60 & echo $!"))
    wait(client, job.jobid)
    pid = int(output(sandbox, job.jobid))
    until = time.monotonic() + PATIENCE_S
    while jobs.started(pid) is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert jobs.started(pid) is None


def test_jobs_beyond_the_machines_room_wait_with_a_reason_and_run_in_order(sandbox: Any, client: Client) -> None:
    jobs.configure(sandbox.box, max_running=1)
    machine = client.compute("perlmutter")
    order = sandbox.dir / "nersc" / "home" / "order"
    body = "until [ -e go ]; do sleep 0.05; done; echo {} >> order"
    ids = [machine.submit_job(script(body.format(i))).jobid for i in range(3)]
    until = time.monotonic() + PATIENCE_S
    reasons = {"None"}
    while not reasons & {"Priority", "Resources"}:
        waiting = rows(client, ids[2], sacct=False)
        assert [row["state"] for row in waiting] == ["PENDING"]
        assert time.monotonic() < until
        reasons = {row["reason"] for row in waiting}
    order.with_name("go").touch()
    wait(client, ids[2])
    assert order.read_text().split() == ["0", "1", "2"]


@in_real_slurm_too
def test_squeue_forgets_a_job_that_has_ended_and_sacct_does_not(client: Client) -> None:
    machine = client.compute("perlmutter")
    job = machine.submit_job(script("true"))
    wait(client, job.jobid)
    assert machine.jobs(user="als") == []
    assert [j.jobid for j in machine.jobs(user="als", command=JobCommand.sacct)] == [job.jobid]
    assert machine.jobs(user="somebody", command=JobCommand.sacct) == []


def test_a_burst_of_a_hundred_jobs_takes_seconds(client: Client) -> None:
    machine = client.compute("perlmutter")
    start = time.monotonic()
    ids = [machine.submit_job(script("true", name=f"burst-{i}")).jobid for i in range(100)]
    while any(row["state"] not in ENDED for row in rows(client, *ids)):
        assert time.monotonic() < start + PATIENCE_S
        time.sleep(0.1)
    assert [row["state"] for row in rows(client, *ids)] == ["COMPLETED"] * 100


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("-A nobody -q debug -C cpu", "Invalid account"),
        ("-A als -q fast -C cpu", "Invalid qos specification"),
        ("-A als -q debug", "No architecture specified"),
        ("-A als -q debug -C cpu -t 3:00:00", "Requested time limit is invalid"),
        ("-A als -q xfer --mem=20G", "Memory required"),
        ("-A als -q debug -C cpu -J two words", "Invalid directive found in batch script: words"),
        ("-A als -q debug -C cpu --frobnicate", "unrecognized option"),
    ],
)
def test_slurm_refuses_what_nersc_refuses(client: Client, lines: str, says: str) -> None:
    with pytest.raises(SfApiError) as refusal:
        client.compute("perlmutter").submit_job(f"#!/bin/bash\n#SBATCH {lines}\ntrue\n")
    assert says in refusal.value.message  # real Slurm's words: test_slurm_jobs.py


@in_real_slurm_too
def test_an_xfer_job_of_two_gigabytes_is_taken(client: Client) -> None:
    job = client.compute("perlmutter").submit_job("#!/bin/bash\n#SBATCH -A als -q xfer --mem=2G -t 10\ntrue\n")
    assert wait(client, job.jobid)["state"] == "COMPLETED"


@in_real_slurm_too
def test_a_submission_whose_answer_is_lost_is_made_twice_by_the_client(sandbox: Any, client: Client) -> None:
    """The client's defect that the platform guards against, seen here with the client as it is."""
    machine = client.compute("perlmutter")
    sandbox.fault("sfapi", "status", route="POST /api/v1.2/compute/jobs/*", when="after", code=502)
    machine.submit_job(script("true", name="twice"))
    assert len([row for row in machine.jobs(user="als", command=JobCommand.sacct) if row.jobname == "twice"]) == 2


# faults


@pytest.mark.parametrize("kind", sorted(jobs.END_STATES))
def test_a_job_can_be_made_to_end_in_any_of_slurms_ways(sandbox: Any, client: Client, kind: str) -> None:
    sandbox.fault("sfapi", kind, path="als-*")
    machine = client.compute("perlmutter")
    doomed = machine.submit_job(script("echo ran", name="als-1"))
    spared = machine.submit_job(script("echo ran", name="als-2"))
    assert wait(client, doomed.jobid)["state"].split()[0] == jobs.END_STATES[kind]
    assert wait(client, spared.jobid)["state"] == "COMPLETED"
    assert not (sandbox.dir / "nersc" / "home" / f"slurm-{doomed.jobid}.out").exists()
    assert sandbox.executions("sfapi") == {"als-2": 1}


@in_real_slurm_too
def test_a_node_can_fail_while_the_job_runs_or_after_it_did_its_work(sandbox: Any, client: Client) -> None:
    sandbox.fault("sfapi", "node_fail", path="during", delay=1.5)
    sandbox.fault("sfapi", "node_fail", path="late", when="after")
    machine = client.compute("perlmutter")
    during = machine.submit_job(script("echo begun; sleep 30; echo done", name="during"))
    late = machine.submit_job(script("echo begun; echo done", name="late"))
    assert wait(client, during.jobid)["state"] == "NODE_FAIL"
    assert wait(client, late.jobid)["state"] == "NODE_FAIL"
    assert output(sandbox, during.jobid).splitlines()[0] == "begun"  # real Slurm adds why it ended
    assert "done" not in output(sandbox, during.jobid)
    assert output(sandbox, late.jobid) == "begun\ndone\n"


@in_real_slurm_too
def test_a_job_can_be_held_back_with_a_reason_until_the_fault_is_cleared(sandbox: Any, client: Client) -> None:
    sandbox.fault("sfapi", "pending_forever", reason="AssocGrpCPUMinutesLimit")
    job = client.compute("perlmutter").submit_job(script("true"))
    time.sleep(0.3)
    assert rows(client, job.jobid, sacct=False)[0]["reason"] == "AssocGrpCPUMinutesLimit"
    sandbox.box.clear_faults()
    assert wait(client, job.jobid)["state"] == "COMPLETED"


@in_real_slurm_too
def test_a_job_can_be_unknown_for_a_while_after_its_submission(sandbox: Any, client: Client) -> None:
    sandbox.fault("sfapi", "not_found_for", delay=1.5)
    machine = client.compute("perlmutter")
    job = machine.submit_job(script("true"))
    with pytest.raises(SfApiError, match="Job not found"):
        machine.job(job.jobid)
    time.sleep(1.5)
    assert wait(client, job.jobid)["state"] == "COMPLETED"


@in_real_slurm_too
def test_cached_answers_do_not_know_a_job_that_was_just_submitted(client: Client) -> None:
    job = client.compute("perlmutter").submit_job(script("true"))
    kwargs = [f"jobid={job.jobid}"]
    assert client.get("compute/jobs/perlmutter", {"sacct": True, "kwargs": kwargs}).json()["output"] == []
    assert len(rows(client, job.jobid)) == 1


def test_outages_are_told_while_they_are_listed(sandbox: Any, client: Client) -> None:
    sandbox.fault("sfapi", "outage", text="Power work", end_at="2099-01-01T00:00:00+00:00")
    sandbox.fault("sfapi", "outage", planned=True, start_at="2098-01-01T00:00:00+00:00", machine="dtns")
    assert client.resources.status("perlmutter").status.value == "unavailable"
    assert client.resources.status("dtns").status.value == "active"
    assert [o.description for o in client.resources.outages("perlmutter")] == ["Power work"]
    assert list(client.resources.planned_outages()) == ["dtns"]
    sandbox.box.clear_faults()
    assert client.resources.status("perlmutter").status.value == "active"
    assert client.resources.outages() == {}


# crashes


def supervisor(sandbox: Any) -> int:
    for pid in workers.of(sandbox.dir):
        if b"sandbox.jobs" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no supervisor is running")


@in_real_slurm_too
def test_killing_server_and_supervisor_loses_no_job_and_runs_none_twice(sandbox: Any) -> None:
    jobs.configure(sandbox.box, max_running=2)
    log, go = sandbox.dir / "nersc" / "home" / "log", sandbox.dir / "nersc" / "home" / "go"
    body = f"echo begin $SLURM_JOB_ID >> {log}; until [ -e {go} ]; do sleep 0.05; done; echo end $SLURM_JOB_ID >> {log}"
    with connected(sandbox) as client:
        machine = client.compute("perlmutter")
        ids = [machine.submit_job(script(f"{body}; exit {i}", name=f"job-{i}")).jobid for i in range(4)]
        wait(client, ids[1], "RUNNING")
        until = time.monotonic() + PATIENCE_S
        while log.read_text().count("begin") < 2 if log.exists() else True:
            assert time.monotonic() < until
            time.sleep(0.02)
    os.kill(supervisor(sandbox), signal.SIGKILL)
    sandbox.kill()
    go.touch()  # the two that run end while nobody watches
    until = time.monotonic() + PATIENCE_S
    while log.read_text().count("end") < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    sandbox.start()
    with connected(sandbox) as client:
        ends = [(done["state"], done["exitcode"]) for done in (wait(client, i) for i in ids)]
    assert ends == [("COMPLETED", "0:0"), ("FAILED", "1:0"), ("FAILED", "2:0"), ("FAILED", "3:0")]
    for word in ("begin", "end"):
        assert sorted(log.read_text().splitlines()).count(f"{word} {ids[0]}") == 1
    assert len(log.read_text().splitlines()) == 8


def test_a_job_that_is_started_twice_runs_once(sandbox: Any, client: Client) -> None:
    job_id = client.compute("perlmutter").submit_job(script("sleep 0.2; echo once >> log")).jobid
    wait(client, job_id, "RUNNING", "COMPLETED")
    first, second = jobs.Supervisor(sandbox.box), jobs.Supervisor(sandbox.box)
    for other in (first, second):
        other._start(sandbox.box.get("slurm_job", job_id))
        other.children[job_id][0].wait()
    assert wait(client, job_id)["state"] == "COMPLETED"
    assert (sandbox.dir / "nersc" / "home" / "log").read_text() == "once\n"


def test_a_job_that_is_slow_to_start_is_waited_for_and_one_that_died_before_it_began_is_not(sandbox: Any) -> None:
    """The machine may stand still for seconds; a process that lives will make its claim."""
    watch = jobs.Supervisor(sandbox.box)
    with subprocess.Popen(["sleep", "60"]) as slow:
        watch.children["1"] = (slow, time.monotonic() - 10)
        assert not watch._gone({"id": "1"})
        slow.kill()
        slow.wait()
        assert watch._gone({"id": "1"})


def test_a_job_whose_processes_vanished_is_a_node_failure(sandbox: Any, client: Client) -> None:
    job = client.compute("perlmutter").submit_job(script("sleep 60"))
    wait(client, job.jobid, "RUNNING")
    claim = jobs.directory(sandbox.box, job.jobid) / "claim"
    until = time.monotonic() + PATIENCE_S
    while not (claim.exists() and claim.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(int(claim.read_text().split()[0]), signal.SIGKILL)
    assert wait(client, job.jobid)["state"] == "NODE_FAIL"


def test_a_supervisor_killed_between_noting_a_start_and_starting_starts_the_job_after_all(sandbox: Any) -> None:
    with connected(sandbox) as client:
        sandbox.fault("sfapi", "pending_forever")
        job = client.compute("perlmutter").submit_job(script("echo once >> log"))
        until = time.monotonic() + PATIENCE_S
        while not [p for p in workers.of(sandbox.dir)]:
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(supervisor(sandbox), signal.SIGKILL)
        with sandbox.box.transaction() as docs:
            docs.put(
                "slurm_job", job.jobid, {**docs.get("slurm_job", job.jobid), "state": "RUNNING", "start": time.time()}
            )
        assert wait(client, job.jobid)["state"] == "COMPLETED"
    assert (sandbox.dir / "nersc" / "home" / "log").read_text() == "once\n"


# files


NAMES = ["two words", "semi;colon", "$(id)", "quote'\"", "-rf", "ünïcødé 散乱", "percent%41?x=1#y", "a" * 255]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_any_name_can_be_listed(sandbox: Any, client: Client, name: str) -> None:
    folder = sandbox.dir / "nersc" / "cfs" / "deep"
    folder.mkdir()
    (folder / name).write_bytes(b"\x00\xff")
    (entry,) = client.compute("perlmutter").ls(str(folder))
    assert (entry.name, entry.size, entry.is_file()) == (name, 2.0, True)


def test_a_binary_file_goes_up_and_comes_down_unchanged(sandbox: Any, client: Client) -> None:
    content = bytes(range(256)) * 100
    (target,) = client.compute("perlmutter").ls(str(sandbox.dir / "nersc" / "cfs"), directory=True)
    with (sandbox.dir / "source.bin").open("wb+") as source:
        source.write(content)
        source.seek(0)
        uploaded = (target / "there.bin").upload(source)
    assert (sandbox.dir / "nersc" / "cfs" / "there.bin").read_bytes() == content
    assert uploaded.download(binary=True).read() == content


def test_nothing_outside_the_folder_and_none_of_its_secrets_can_be_reached(sandbox: Any, client: Client) -> None:
    (sandbox.dir / "nersc" / "cfs" / "link").symlink_to("/etc")
    machine = client.compute("perlmutter")
    for path in (
        "/etc/passwd", "/", f"{sandbox.dir}/sfapi_key.json", f"{sandbox.dir}/state.db",
        f"{sandbox.dir}/nersc/../sfapi_key.json", f"{sandbox.dir}/nersc/cfs/link/passwd",
    ):  # fmt: skip
        with pytest.raises(SfApiError) as refusal:
            machine.ls(path)
        assert "No such file or directory" in refusal.value.message
        answer = client.get(f"utilities/download/perlmutter/{path}").json()
        assert (answer["status"], answer["file"]) == ("ERROR", None)


def test_a_large_file_is_not_downloaded(sandbox: Any, client: Client) -> None:
    with (sandbox.dir / "nersc" / "cfs" / "large").open("wb") as large:
        large.truncate(6_000_000)
    answer = client.get(f"utilities/download/perlmutter/{sandbox.dir}/nersc/cfs/large", {"binary": True}).json()
    assert answer["status"] == "ERROR"
    assert "too large" in answer["error"]


def test_commands_run_without_a_shell_and_only_those_that_touch_files(sandbox: Any, client: Client) -> None:
    machine = client.compute("perlmutter")
    assert machine.run(["mkdir", "-p", f"{sandbox.dir}/nersc/cfs/a"]) == ""
    assert machine.run("ls").split() == []
    assert machine.run("echo $HOME ; id") == "$HOME ; id\n"
    for forbidden in ("id", "bash -c true", "cat /etc/passwd", "rm -rf .."):
        with pytest.raises(SfApiError):
            machine.run(forbidden)
