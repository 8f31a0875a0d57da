"""The platform's client of the Superfacility API, through NERSC's own over loopback."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resources import sfapi_session
from resources.errors import CredentialProblem, FacilityError, NotFound, Refused, Unavailable
from resources.sfapi import Superfacility
from resources.tasks import TaskState, TaskStatus
from sandbox import jobs, sfapi_auth
from tests.conftest import PATIENCE_S, in_real_slurm_too

SUBMIT = "POST /api/v1.2/compute/jobs/*"
LIST = "GET /api/v1.2/compute/jobs/*"


@pytest.fixture
def nersc(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Superfacility:
    monkeypatch.setenv("ALS_SFAPI_KEY", str(sandbox.dir / "sfapi_key.json"))
    program = sandbox.dir / "nersc" / "home" / "program"
    program.write_text('#!/bin/bash\ncat > "$HOME/request-$SLURM_JOB_ID"\nsleep "${WAIT:-0}"\nexit 0\n')
    program.chmod(0o700)
    return resource(sandbox, program=str(program))


def resource(sandbox: Any, **more: Any) -> Superfacility:
    where = {"api_url": sandbox.url + "/sfapi/api/v1.2", "token_url": sandbox.url + "/sfapi/token", "user": "als"}
    return Superfacility(**{**where, **more})


def does(sandbox: Any, nersc: Superfacility, body: str) -> Superfacility:
    """The same, with a program that does `body` (bash)."""
    path = Path(nersc.program)
    path.write_text(f"#!/bin/bash\n{body}\n")
    return nersc


REQUEST = {
    "directives": {"account": "als", "qos": "debug", "constraint": "cpu", "time": "5", "nodes": 1},
    "job": {"schema": "als-job/1"},
}


def ended(nersc: Superfacility, job_id: str, seconds: float = PATIENCE_S) -> TaskStatus:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = nersc.poll([job_id]).get(job_id)
        if status is not None and not status.state.live:
            return status
        time.sleep(0.03)
    raise AssertionError(f"job {job_id} has not ended: {nersc.poll([job_id])}")


# submitting


@in_real_slurm_too
def test_a_job_is_submitted_found_by_its_key_and_followed_to_its_end(sandbox: Any, nersc: Superfacility) -> None:
    job_id = nersc.submit("als-1", REQUEST)
    status = ended(nersc, job_id)
    assert (status.id, status.state, status.native) == (job_id, TaskState.SUCCEEDED, "COMPLETED")
    assert [s.id for s in nersc.find("als-1")] == [job_id]
    assert nersc.find("als-2") == []
    request = sandbox.dir / "nersc" / "home" / f"request-{job_id}"
    assert json.loads(request.read_text()) == REQUEST["job"]


@pytest.mark.parametrize("fault", [{"kind": "status", "code": 502}, {"kind": "status", "code": 500}, {"kind": "drop"}])
@in_real_slurm_too
def test_a_submission_whose_answer_is_lost_was_sent_once_and_is_found(
    sandbox: Any, nersc: Superfacility, fault: dict[str, Any]
) -> None:
    sandbox.fault("sfapi", **fault, route=SUBMIT, when="after", count=10)
    with pytest.raises(Unavailable):
        nersc.submit("als-1", REQUEST)
    (status,) = nersc.find("als-1")
    assert ended(nersc, status.id).state is TaskState.SUCCEEDED
    assert sandbox.requests()["sfapi POST /api/v1.2/compute/jobs/perlmutter"] == 1
    assert sandbox.executions("sfapi") == {"als-1": 1}


def test_a_submission_that_was_not_made_is_not_found(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "status", route=SUBMIT, when="before", code=503)
    with pytest.raises(Unavailable):
        nersc.submit("als-1", REQUEST)
    assert nersc.find("als-1") == []


@in_real_slurm_too
def test_of_two_submissions_of_one_key_one_runs_and_the_other_ends_as_its_duplicate(
    sandbox: Any, nersc: Superfacility
) -> None:
    nersc = resource(sandbox)  # with the real als-job
    attempt = sandbox.dir / "nersc" / "scratch" / "als-1"
    command = {"id": "a", "argv": ["als-describe", "--help"]}
    job = {"schema": "als-job/1", "key": "als-1", "attempt_dir": str(attempt), "commands": [command]}
    ids = [nersc.submit("als-1", {**REQUEST, "job": job}) for _ in range(2)]
    ends = [ended(nersc, i) for i in ids]
    assert sorted(s.duplicate for s in ends) == [False, True]
    assert [s.state for s in ends if not s.duplicate] == [TaskState.SUCCEEDED]
    assert [s.id for s in nersc.find("als-1")] == ids
    outcome = json.loads(nersc.read(f"{attempt}/outcome.json", 100_000))
    assert [c["exit"] for c in outcome["commands"]] == [0]
    assert sandbox.executions("sfapi") == {"als-1": 1}


@in_real_slurm_too
def test_a_client_that_doubles_a_post_is_seen_as_two_jobs_of_one_key(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "duplicate_submit", path="als-1")
    job_id = nersc.submit("als-1", REQUEST)
    assert [s.id for s in nersc.find("als-1")] == [str(int(job_id) - 1), job_id]


@in_real_slurm_too
def test_a_job_of_yesterday_is_found_although_sacct_begins_at_midnight(sandbox: Any, nersc: Superfacility) -> None:
    job_id = nersc.submit("als-1", REQUEST)
    ended(nersc, job_id)
    with sandbox.box.transaction() as docs:
        job = docs.get("slurm_job", job_id)
        docs.put("slurm_job", job_id, {**job, **{name: job[name] - 2 * 86400 for name in ("submit", "start", "end")}})
    assert [s.id for s in nersc.find("als-1")] == [job_id]


def test_only_jobs_with_exactly_this_name_are_found(nersc: Superfacility) -> None:
    nersc.submit("als-10", REQUEST)
    assert nersc.find("als-1") == []


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("sbatch: error: Batch job submission failed: Invalid qos specification", Refused, "Invalid qos specification"),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates"
         " accounting/QOS policy (job submit limit, user's size and/or time limits)", Unavailable, "no further job"),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates"
         " accounting/QOS policy (job submit limit, user's size and/or time limits)", Refused, "QOSMaxWallDuration"),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", Unavailable, "Socket"),
        ("Internal error", Unavailable, "did not submit"),
    ],
)  # fmt: skip
def test_what_sbatch_says_decides_whether_to_wait_or_to_give_up(
    sandbox: Any, nersc: Superfacility, text: str, error: type[FacilityError], words: str
) -> None:
    sandbox.fault("sfapi", "refused", text=text)
    with pytest.raises(error) as refusal:
        nersc.submit("als-1", REQUEST)
    assert words in refusal.value.reason


def test_a_request_that_cannot_be_a_script_is_refused_before_anything_is_sent(
    sandbox: Any, nersc: Superfacility
) -> None:
    with pytest.raises(Refused, match="directive qos"):
        nersc.submit("als-1", {**REQUEST, "directives": {"qos": "a b"}})
    assert not any("POST" in route and "jobs" in route for route in sandbox.requests())


# outages


def test_nothing_is_submitted_in_an_outage_and_its_reason_and_end_are_told(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "outage", text="Power work", end_at="2099-01-01T12:00:00-08:00")
    with pytest.raises(Unavailable) as outage:
        nersc.submit("als-1", REQUEST)
    assert "Power work" in outage.value.reason
    assert "2099-01-01 20:00 UTC" in outage.value.reason
    assert (outage.value.retry_after_s or 0) > 86400
    sandbox.box.clear_faults()
    assert nersc.find("als-1") == []


@pytest.mark.parametrize(
    ("start", "taken"), [("2020-01-01T00:00:00+00:00", False), ("2098-01-01T00:00:00+00:00", True)]
)
def test_a_planned_outage_counts_from_when_it_begins(
    sandbox: Any, nersc: Superfacility, start: str, taken: bool
) -> None:
    sandbox.fault("sfapi", "outage", planned=True, start_at=start, end_at="2099-01-01T00:00:00+00:00")
    if taken:
        assert nersc.submit("als-1", REQUEST)
    else:
        with pytest.raises(Unavailable, match="maintenance"):
            nersc.submit("als-1", REQUEST)


def test_a_machine_that_is_degraded_takes_jobs(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "degraded")
    assert nersc.submit("als-1", REQUEST)


# polling


def test_many_jobs_are_polled_in_few_requests(sandbox: Any, nersc: Superfacility) -> None:
    first = nersc.submit("als-0", REQUEST)
    ended(nersc, first)
    job_ids = [str(int(first) + n) for n in range(250)]
    with sandbox.box.transaction() as docs:
        job = docs.get("slurm_job", first)
        for n, job_id in enumerate(job_ids):
            docs.put("slurm_job", job_id, {**job, "id": job_id, "name": f"als-{n}"})
    before = sandbox.requests().get("sfapi GET /api/v1.2/compute/jobs/perlmutter", 0)
    assert set(nersc.poll(job_ids)) == set(job_ids)
    assert sandbox.requests()["sfapi GET /api/v1.2/compute/jobs/perlmutter"] - before <= 3


@pytest.mark.parametrize(
    ("kind", "state", "transient"),
    [
        ("node_fail", TaskState.FAILED, True), ("preempted", TaskState.FAILED, True),
        ("time_limit", TaskState.FAILED, False), ("out_of_memory", TaskState.FAILED, False),
        ("failed", TaskState.FAILED, True), ("cancelled", TaskState.CANCELLED, True),
    ],
)  # fmt: skip
def test_each_way_in_which_slurm_ends_a_job_is_an_end(
    sandbox: Any, nersc: Superfacility, kind: str, state: TaskState, transient: bool
) -> None:
    sandbox.fault("sfapi", kind, path="als-1")
    status = ended(nersc, nersc.submit("als-1", REQUEST))
    assert (status.state, status.transient) == (state, transient)
    assert status.reason


def test_a_state_that_the_client_cannot_read_is_an_end(sandbox: Any, nersc: Superfacility) -> None:
    job_id = nersc.submit("als-1", REQUEST)
    ended(nersc, job_id)
    sandbox.fault("sfapi", "odd_state", path="als-1", state="LAUNCH_FAILED")
    assert nersc.poll([job_id])[job_id].native == "LAUNCH_FAILED"


@in_real_slurm_too
def test_a_job_that_is_not_known_yet_is_left_out_and_no_failure(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "not_found_for", path="als-1", delay=60)
    job_id, other = nersc.submit("als-1", REQUEST), nersc.submit("als-2", REQUEST)
    assert ended(nersc, other).state is TaskState.SUCCEEDED
    assert set(nersc.poll([job_id, other, "1", "not-a-job"])) == {other}


@in_real_slurm_too
def test_a_waiting_job_says_what_it_waits_for(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "pending_forever", reason="QOSMaxJobsPerUserLimit")
    job_id = nersc.submit("als-1", REQUEST)
    status = nersc.poll([job_id])[job_id]
    assert status.state is TaskState.QUEUED
    assert "as many running jobs as the QOS allows (QOSMaxJobsPerUserLimit)" in status.reason


def test_a_table_that_slurm_could_not_make_is_no_answer(sandbox: Any, nersc: Superfacility) -> None:
    """status ERROR with output null: NERSC's client raises TypeError."""
    job_id = nersc.submit("als-1", REQUEST)
    ended(nersc, job_id)
    sandbox.fault("sfapi", "table_error", count=2)
    with pytest.raises(Unavailable, match="slurm controller"):
        nersc.poll([job_id])
    sandbox.fault("sfapi", "table_error", count=1)
    with pytest.raises(Unavailable, match="slurm controller"):
        nersc.find("als-1")


def test_jobs_that_wait_are_seen_while_the_accounting_is_down(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "pending_forever")
    job_id = nersc.submit("als-1", REQUEST)
    sandbox.fault("sfapi", "table_error", path="sacct", text="sacct: error: slurmdbd: connection refused")
    assert nersc.poll([job_id])[job_id].state is TaskState.QUEUED


@in_real_slurm_too
def test_a_job_is_cancelled_and_cancelling_again_or_another_is_no_error(sandbox: Any, nersc: Superfacility) -> None:
    does(sandbox, nersc, "sleep 60")
    job_id = nersc.submit("als-1", REQUEST)
    nersc.cancel(job_id)
    status = ended(nersc, job_id)
    assert (status.state, status.transient) == (TaskState.CANCELLED, False)
    nersc.cancel(job_id)
    nersc.cancel("12345678")


@in_real_slurm_too
def test_a_restarted_server_knows_the_jobs_of_before(sandbox: Any, nersc: Superfacility) -> None:
    job_id = nersc.submit("als-1", REQUEST)
    sandbox.kill()
    with pytest.raises(Unavailable, match=r"cannot be reached|broke"):
        nersc.poll([job_id])
    sandbox.start()
    assert ended(nersc, job_id).state is TaskState.SUCCEEDED


# sign-in


def test_a_token_that_was_revoked_is_replaced_once_without_a_second_job(sandbox: Any, nersc: Superfacility) -> None:
    nersc.poll(["1"])
    sfapi_auth.revoke_tokens(sandbox.box)
    before = sandbox.requests()["sfapi POST /token"]
    job_id = nersc.submit("als-1", REQUEST)
    assert sandbox.requests()["sfapi POST /token"] == before + 1
    assert [s.id for s in nersc.find("als-1")] == [job_id]


def test_a_submission_that_is_turned_away_for_its_token_is_made_once(sandbox: Any, nersc: Superfacility) -> None:
    sandbox.fault("sfapi", "status", route=SUBMIT, code=401, body={"detail": "Not authenticated"})
    job_id = nersc.submit("als-1", REQUEST)
    assert [s.id for s in nersc.find("als-1")] == [job_id]


def test_a_rotated_key_is_used_without_a_restart(sandbox: Any, nersc: Superfacility) -> None:
    nersc.poll(["1"])
    sfapi_auth.rotate(sandbox.box)
    assert nersc.find("als-1") == []


def test_an_expired_key_is_a_credential_problem_that_names_the_file(
    sandbox: Any, nersc: Superfacility, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "old.json"
    old.write_bytes((sandbox.dir / "sfapi_key.json").read_bytes())
    old.chmod(0o600)
    sfapi_auth.rotate(sandbox.box)
    monkeypatch.setenv("ALS_SFAPI_KEY", str(old))
    with pytest.raises(CredentialProblem, match=r"does not accept the key in .*old\.json"):
        nersc.poll(["1"])


def broken(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: "", "ALS_SFAPI_KEY is not set"),
        (lambda p: str(p / "absent.json"), "cannot be read"),
        (lambda p: broken(p / "open.json", "{}", 0o644), "chmod 600"),
        (lambda p: broken(p / "odd.json", "not json"), "as Iris writes them"),
        (lambda p: broken(p / "empty.json", "{}"), "as Iris writes them"),
        (lambda p: broken(p / "short.json", '{"client_id": "short", "secret": {}}'), "client_id not found"),
        (
            lambda p: broken(p / "key.json", '{"client_id": "abcdefghijklm", "secret": {"kty": "RSA"}}'),
            "as Iris writes",
        ),
        (lambda p: broken(p / "key.pem", "abcdefghijklm\n-----BEGIN RSA PRIVATE KEY-----\nx\n"), "as Iris writes them"),
    ],
)
def test_a_key_file_that_is_no_good_is_a_credential_problem_in_words(
    nersc: Superfacility,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make: Callable[[Path], str],
    words: str,
) -> None:
    monkeypatch.setenv("ALS_SFAPI_KEY", make(tmp_path))
    with pytest.raises(CredentialProblem, match=words):
        nersc.poll(["1"])


def test_no_error_shows_a_secret(sandbox: Any, nersc: Superfacility, monkeypatch: pytest.MonkeyPatch) -> None:
    key = json.loads((sandbox.dir / "sfapi_key.json").read_text())
    secret = key["secret"]["d"]
    sandbox.fault("sfapi", "status", route="POST /token", code=400, body={"error": "invalid_client"}, count=5)
    sfapi_session._sign_ins.clear()
    with pytest.raises(CredentialProblem) as problem:
        nersc.poll(["1"])
    assert secret not in str(problem.value) + repr(problem.value)
    assert secret not in repr(nersc)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "status", "code": 503}, Unavailable),
        ({"kind": "429"}, Unavailable),
        ({"kind": "drop"}, Unavailable),
        ({"kind": "status", "code": 401, "body": {"error": "invalid_client"}}, CredentialProblem),
        ({"kind": "status", "code": 200, "body": "<html>"}, FacilityError),
    ],
)
def test_trouble_at_the_sign_in_is_told_as_what_it_is(
    sandbox: Any, nersc: Superfacility, fault: dict[str, Any], error: type[FacilityError]
) -> None:
    sfapi_session._sign_ins.clear()
    sandbox.fault("sfapi", **fault, route="POST /token")
    with pytest.raises(error):
        nersc.poll(["1"])
    assert nersc.poll(["1"]) == {}


def test_many_threads_share_one_sign_in(sandbox: Any, nersc: Superfacility) -> None:
    sfapi_session._sign_ins.clear()
    before = sandbox.requests().get("sfapi POST /token", 0)
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            job_id = resource(sandbox, program=nersc.program).submit(f"als-{number}", REQUEST)
            assert job_id in nersc.poll([job_id])
        except BaseException as error:  # noqa: BLE001 (shown below)
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sandbox.requests()["sfapi POST /token"] == before + 1


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ({"kind": "status", "code": 500}, Unavailable, "not available"),
        ({"kind": "status", "code": 404, "body": "<html>a proxy's page</html>"}, Unavailable, "not available"),
        ({"kind": "status", "code": 403, "body": {"detail": "no"}}, CredentialProblem, "red client"),
        ({"kind": "status", "code": 422, "body": {"detail": "bad machine"}}, Refused, "bad machine"),
        ({"kind": "429", "retry_after": 7}, Unavailable, "fewer requests"),
        ({"kind": "drop"}, Unavailable, "connection"),
        ({"kind": "status", "code": 200, "body": "<html>"}, Unavailable, "not JSON"),
    ],
)
def test_every_trouble_on_the_way_becomes_one_of_four_errors(
    sandbox: Any, nersc: Superfacility, fault: dict[str, Any], error: type[FacilityError], words: str
) -> None:
    sandbox.fault("sfapi", **fault, route=LIST)
    with pytest.raises(error, match=words) as trouble:
        nersc.poll(["1"])
    assert trouble.value.service == "nersc"
    if fault["kind"] == "429":
        assert isinstance(trouble.value, Unavailable)
        assert trouble.value.retry_after_s == 7


def test_a_service_that_is_silent_is_given_up_within_seconds(
    sandbox: Any, nersc: Superfacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    nersc.poll(["1"])
    client = nersc.session.sign_in()
    client._http_client().timeout = 0.5  # of ten seconds
    sandbox.fault("sfapi", "timeout", route=LIST, delay=60)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer"):
        nersc.poll(["1"])
    assert time.monotonic() - start < 30


# files


def test_a_file_is_read_as_the_bytes_that_it_has(sandbox: Any, nersc: Superfacility) -> None:
    for name, content in {"a b'$(x).bin": bytes(range(256)) * 9, "empty": b"", "percent%20?#": b"x"}.items():
        (sandbox.dir / "nersc" / "cfs" / name).write_bytes(content)
        assert nersc.read(f"{sandbox.dir}/nersc/cfs/{name}", 10_000) == content


def test_a_file_over_the_limit_is_refused(sandbox: Any, nersc: Superfacility) -> None:
    path = sandbox.dir / "nersc" / "cfs" / "large"
    path.write_bytes(b"x" * 1001)
    with pytest.raises(Refused, match="larger than 1000 bytes"):
        nersc.read(str(path), 1000)
    with path.open("wb") as large:
        large.truncate(9_000_000)
    with pytest.raises(Refused, match="too large"):
        nersc.read(str(path), 1000)


def test_a_missing_file_is_missing_only_when_the_machine_is_healthy(sandbox: Any, nersc: Superfacility) -> None:
    path = f"{sandbox.dir}/nersc/cfs/absent"
    with pytest.raises(NotFound):
        nersc.read(path, 10)
    assert not nersc.exists(path)
    sandbox.fault("sfapi", "outage", count=1)
    for ask in (lambda: nersc.read(path, 10), lambda: nersc.exists(path), lambda: nersc.ls(path)):
        with pytest.raises(Unavailable):
            ask()


def test_a_file_below_a_root_that_is_gone_is_not_called_missing(sandbox: Any, nersc: Superfacility) -> None:
    nersc = resource(sandbox, roots=[f"{sandbox.dir}/nersc/unmounted"])
    with pytest.raises(Unavailable, match="unmounted cannot be listed"):
        nersc.exists(f"{sandbox.dir}/nersc/unmounted/file")


@pytest.mark.parametrize("fault", [{"kind": "status", "code": 404, "body": "<html>"}, {"kind": "status", "code": 502}])
def test_an_answer_that_is_not_the_apis_own_says_nothing_about_a_file(
    sandbox: Any, nersc: Superfacility, fault: dict[str, Any]
) -> None:
    sandbox.fault("sfapi", **fault, route="GET /api/v1.2/utilities/*")
    with pytest.raises(Unavailable):
        nersc.exists(f"{sandbox.dir}/nersc/cfs")


def test_a_directory_is_listed_with_types_sizes_and_times(sandbox: Any, nersc: Superfacility) -> None:
    folder = sandbox.dir / "nersc" / "cfs" / "deep"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "ünï;$(x)").write_bytes(b"123")
    os.utime(folder / "ünï;$(x)", (1_700_000_000, 1_700_000_000))
    (folder / "link").symlink_to("ünï;$(x)")
    entries = {e.name: e for e in nersc.ls(str(folder))}
    assert {name: e.type for name, e in entries.items()} == {"sub dir": "dir", "ünï;$(x)": "file", "link": "link"}
    file = entries["ünï;$(x)"]
    assert file.bytes == 3
    assert file.mtime is not None
    assert file.mtime.timestamp() == 1_700_000_000
    assert nersc.ls(str(folder / "sub dir")) == []
    assert nersc.stat(str(folder / "ünï;$(x)")) == file
    assert nersc.stat(str(folder)).type == "dir"


def test_a_file_is_written_whole_and_only_into_a_directory_that_exists(sandbox: Any, nersc: Superfacility) -> None:
    path = f"{sandbox.dir}/nersc/cfs/two words.json"
    nersc.upload(path, b"\x00\xff")
    assert nersc.read(path, 10) == b"\x00\xff"
    with pytest.raises(NotFound):
        nersc.upload(f"{sandbox.dir}/nersc/cfs/absent/x", b"")


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a\0b", ""])
def test_a_path_that_is_not_absolute_and_plain_is_refused(nersc: Superfacility, path: str) -> None:
    with pytest.raises(Refused):
        nersc.read(path, 10)


# the flight check


def test_the_flight_check_tries_everything(sandbox: Any, nersc: Superfacility) -> None:
    findings = {f.what: f for f in nersc.check(["als", "als_g", "nobody"], [f"{sandbox.dir}/nersc/cfs", "/nowhere"])}
    assert {what for what, finding in findings.items() if not finding.ok} == {"project nobody", "directory /nowhere"}
    assert findings["sign-in"].ok
    assert findings["may submit jobs"].ok


def test_the_flight_check_tells_a_key_that_may_not_submit_and_one_that_ends_soon(
    sandbox: Any, nersc: Superfacility
) -> None:
    jobs.configure(sandbox.box, colour="blue")
    sandbox.box.put("sfapi_key_expires", "at", {"at": time.time() + 86400})
    sandbox.fault("sfapi", "outage", text="Power work")
    failed = {f.what: f.says for f in nersc.check() if not f.ok}
    assert set(failed) == {"key's end", "machine perlmutter", "may submit jobs"}
    assert "red client" in failed["may submit jobs"]
    assert "Iris" in failed["key's end"]
    assert "Power work" in failed["machine perlmutter"]


def test_the_flight_check_ends_with_the_sign_in_when_there_is_none(
    nersc: Superfacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALS_SFAPI_KEY")
    (only,) = nersc.check(["als"], ["/"])
    assert (only.what, only.ok) == ("sign-in", False)


def test_a_job_has_a_page_where_the_facility_has_one(sandbox: Any) -> None:
    assert resource(sandbox).url("7") is None
    assert resource(sandbox, job_page="https://example.org/jobs/{id}").url("7") == "https://example.org/jobs/7"
