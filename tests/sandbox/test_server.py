"""The sandbox as a process: started, killed, ended, reset; and the faults of the wire."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from als import sandbox as als_sandbox
from sandbox import workers
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).parents[2]


def sandbox_command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def status_of(sandbox: Any, method: str = "GET", path: str = "/transfer/v0.10/task_list") -> int:
    try:
        sandbox.call(method, path)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_credentials_are_readable_by_their_owner_only_and_survive_restart_and_reset(sandbox) -> None:
    before = sandbox.credentials()
    assert (sandbox.dir / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert set(before) == {"auth", "transfer", "sfapi", "scicat"}
    sandbox.kill()
    sandbox.start()
    sandbox.reset()
    assert sandbox.credentials()["auth"] == before["auth"]


def test_a_killed_server_comes_back_at_its_address_with_its_state(sandbox) -> None:
    url = sandbox.url
    sandbox.box.put("anything", "x", {"y": 1})
    sandbox.kill()
    sandbox.start()
    assert sandbox.url == url
    assert sandbox.box.get("anything", "x") == {"y": 1}


def test_a_second_server_on_the_same_folder_is_turned_away(sandbox) -> None:
    second = sandbox_command("serve", "--dir", str(sandbox.dir))
    assert second.returncode == 1 and "another server" in second.stderr
    assert sandbox.running


def test_down_ends_the_server_and_its_workers_and_nothing_else(sandbox) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    worker = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; sleep 60 & wait"],
        start_new_session=True,
        env={**os.environ, workers.MARK: str(sandbox.dir)},
    )
    try:
        until = time.monotonic() + PATIENCE_S
        while len(workers.of(sandbox.dir)) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        done = sandbox_command("down", "--dir", str(sandbox.dir))
        assert done.returncode == 0, done.stderr
        assert not sandbox.running
        assert worker.wait(PATIENCE_S) != 0
        assert workers.of(sandbox.dir) == []
        assert not (sandbox.dir / "address.json").exists()
        assert stranger.poll() is None
        assert sandbox_command("down", "--dir", str(sandbox.dir)).returncode == 0
    finally:
        stranger.kill()
        stranger.wait()


def test_a_reused_process_id_is_not_ended(sandbox) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        sandbox.kill()
        address = {"url": sandbox.url, "port": 1, "pid": stranger.pid}
        (sandbox.dir / "address.json").write_text(json.dumps(address))
        assert sandbox_command("down", "--dir", str(sandbox.dir)).returncode == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_reset_forgets_documents_faults_and_files(sandbox) -> None:
    sandbox.box.put("anything", "x", {})
    sandbox.fault("transfer", "drop")
    (sandbox.dir / "als/dtn/f").write_text("x")
    assert sandbox_command("reset", "--dir", str(sandbox.dir)).returncode == 0
    assert sandbox.box.all("anything") == [] and sandbox.box.faults() == []
    assert list((sandbox.dir / "als/dtn").iterdir()) == []


def test_collections_are_those_of_the_file_when_there_is_one(sandbox) -> None:
    file = sandbox.dir / "collections.json"
    file.write_text(json.dumps({"00000000-0000-4000-8000-000000000008": {"name": "aps", "root": "aps/8id"}}))
    try:
        sandbox.call("POST", "/sandbox/reset")
        assert sandbox.credentials()["transfer"]["collections"] == {"aps": "00000000-0000-4000-8000-000000000008"}
        assert (sandbox.dir / "aps/8id").is_dir() and not (sandbox.dir / "als").exists()
    finally:
        file.unlink()


def test_faults_come_and_go_over_http(sandbox) -> None:
    sandbox.call("POST", "/sandbox/faults", {"service": "transfer", "kind": "status", "code": 418, "count": 2})
    assert [status_of(sandbox), status_of(sandbox), status_of(sandbox)] == [418, 418, 401]
    assert sandbox.call("GET", "/sandbox/faults")["faults"][0]["left"] == 0
    assert sandbox.call("DELETE", "/sandbox/faults") == {"faults": []}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "status"}, 'a fault is {"service", "kind", …}'),
        ({"service": "globus", "kind": "status"}, "globus is no service: auth, hpss, scicat, sfapi, transfer or *"),
        ({"service": "transfer", "kind": "pasued"}, "transfer has no fault pasued: 429, checksum_mismatch, "),
        ({"service": "hpss", "kind": "drop"}, "hpss has no fault drop: bit_rot, down, "),
        (
            {"service": "scicat", "kind": "bit_rot"},
            "scicat has no fault bit_rot: 429, die, drop, slow",
        ),
        ({"service": "*", "kind": "status", "when": "later"}, '"when" is later: before or after'),
    ],
)
def test_a_fault_that_would_never_come_is_refused(sandbox, fault: dict, words: str) -> None:
    with pytest.raises(als_sandbox.SandboxProblem, match=re.escape(f"the sandbox said 400: {words}")):
        als_sandbox.reachable(sandbox.dir, "POST", "/sandbox/faults", fault)
    assert sandbox.box.faults() == []


def test_a_fault_hits_its_service_and_route_only(sandbox) -> None:
    sandbox.fault("transfer", "status", route="POST /v0.10/*", count=-1)
    sandbox.fault("scicat", "status", count=-1)
    assert status_of(sandbox, "GET") == 401
    assert status_of(sandbox, "POST", "/transfer/v0.10/transfer") == 503


@pytest.mark.parametrize("kind", ["status", "429", "drop", "timeout", "slow"])
@pytest.mark.parametrize(("when", "done"), [("before", 0), ("after", 1)])
def test_before_nothing_is_done_and_after_everything_but_the_answer(sandbox, kind, when, done) -> None:
    box_of_token = "a token"
    sandbox.box.put("token", box_of_token, {"expires_at": 0})
    sandbox.fault("auth", kind, when=when, delay=0.05)
    connection = http.client.HTTPConnection(sandbox.url.removeprefix("http://"))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/auth/v2/oauth2/token/revoke", "token=a+token", headers)
    if kind in ("drop", "timeout"):
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
    else:
        answer = connection.getresponse()
        assert answer.status == {"status": 503, "429": 429, "slow": 200}[kind]
        assert answer.headers.get("Retry-After") == ("1" if kind == "429" else None)
    gone = sandbox.box.get("token", box_of_token) is None
    assert gone == (done == 1 or kind == "slow")


def test_an_idle_server_costs_next_to_nothing(sandbox) -> None:
    def used() -> float:
        fields = Path(f"/proc/{sandbox.call('GET', '/sandbox/status')['pid']}/stat").read_text().rsplit(")", 1)[1]
        return sum(int(ticks) for ticks in fields.split()[11:13]) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(1.5)
    assert used() - before <= 0.1
