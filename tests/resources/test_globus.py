"""The Globus client against the sandbox's Transfer service."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resources.errors import CredentialProblem, NotFound, Refused, Unavailable
from resources.globus import Entry, GlobusTransfer
from resources.tasks import TaskState, TaskStatus
from sandbox.transfer import ALS_DTN, NERSC_CFS
from tests.conftest import PATIENCE_S

GONE = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture
def globus(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> GlobusTransfer:
    account = sandbox.credentials()["auth"]
    monkeypatch.setenv("ALS_GLOBUS_CLIENT_ID", account["client_id"])
    monkeypatch.setenv("ALS_GLOBUS_CLIENT_SECRET", account["client_secret"])
    monkeypatch.setattr("resources.globus_session.MOST_SLEEP_S", 0.01)
    return GlobusTransfer(transfer_url=f"{sandbox.url}/transfer/", auth_url=f"{sandbox.url}/auth/")


@pytest.fixture
def als(sandbox: Any) -> Path:
    return Path(sandbox.dir / "als/dtn")


@pytest.fixture
def nersc(sandbox: Any) -> Path:
    return Path(sandbox.dir / "nersc/cfs")


def request(*names: str, deadline_s: float = 600, **more: Any) -> dict[str, Any]:
    items = [{"source_path": n, "destination_path": f"/raw{n}", "recursive": False, "bytes": 6} for n in names]
    common = {"source": ALS_DTN, "destination": NERSC_CFS, "label": "7.0.1.1: 3 scans", "encrypt": True}
    return {**common, "deadline_s": deadline_s, "sync_level": None, "items": items, **more}


def write(path: Path, content: bytes = b"frames") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def until(globus: GlobusTransfer, task_id: str, enough: Callable[[TaskStatus], bool]) -> TaskStatus:
    limit = time.monotonic() + PATIENCE_S
    while True:
        status = globus.poll([task_id])[task_id]
        if enough(status):
            return status
        assert time.monotonic() < limit, status
        time.sleep(0.03)


def ended(globus: GlobusTransfer, task_id: str) -> TaskStatus:
    return until(globus, task_id, lambda status: not status.state.live)


# tasks


def test_a_task_arrives_verified_and_says_what_it_transferred(globus, als, nersc) -> None:
    write(als / "a b.h5")
    write(als / "ü's.h5")
    task_id = globus.submit(globus.new_key("ours"), request("/a b.h5", "/ü's.h5"))
    status = ended(globus, task_id)
    assert (status.state, status.native, status.reason, status.code) == (TaskState.SUCCEEDED, "SUCCEEDED", "", "")
    assert status.detail["files_transferred"] == 2
    assert globus.successful_files(task_id) == {("/a b.h5", "/raw/a b.h5"), ("/ü's.h5", "/raw/ü's.h5")}
    assert (nersc / "raw/ü's.h5").read_bytes() == b"frames"
    assert globus.url(task_id) == f"https://app.globus.org/activity/{task_id}"


def test_no_default_of_the_service_decides_anything(sandbox, globus, als) -> None:
    write(als / "f")
    task_id = globus.submit(globus.new_key(""), request("/f", deadline_s=3600, sync_level=1))
    sent = sandbox.box.get("transfer_request", task_id)
    flags = {
        "verify_checksum": True,
        "preserve_timestamp": True,
        "encrypt_data": True,
        "skip_source_errors": False,
        "fail_on_quota_errors": True,
        "delete_destination_extra": False,
        "notify_on_succeeded": False,
        "notify_on_failed": False,
        "notify_on_inactive": False,
        "sync_level": 1,
    }
    assert {key: sent[key] for key in flags} == flags
    assert sent["DATA"][0]["recursive"] is False
    left = datetime.fromisoformat(sent["deadline"]) - datetime.now(UTC)
    assert timedelta(seconds=3500) < left <= timedelta(seconds=3600)


def test_the_same_key_again_is_the_same_task(sandbox, globus, als) -> None:
    write(als / "f")
    key = globus.new_key("")
    first = globus.submit(key, request("/f"))
    ended(globus, first)
    assert globus.submit(key, request("/f")) == first
    assert sandbox.executions("transfer") == {first: 1}


@pytest.mark.parametrize("kind", ["drop", "status", "timeout"])
def test_a_submission_whose_answer_is_lost_for_good_is_found_again_by_its_key(sandbox, globus, als, kind) -> None:
    write(als / "f")
    key = globus.new_key("")
    sandbox.fault("transfer", kind, route="POST /v0.10/transfer", when="after", count=-1)
    with pytest.raises(Unavailable):
        globus.submit(key, request("/f"))
    sandbox.box.clear_faults()
    (found,) = globus.find(key)
    assert globus.submit(key, request("/f")) == found.id
    assert ended(globus, found.id).state == TaskState.SUCCEEDED
    assert sandbox.executions("transfer") == {found.id: 1}


def test_an_unknown_key_finds_nothing(globus, als) -> None:
    write(als / "f")
    globus.submit(globus.new_key(""), request("/f"))
    assert globus.find(globus.new_key("")) == []
    assert globus.find("") == []


def test_many_tasks_are_polled_in_few_requests_and_unknown_ones_left_out(sandbox, globus, als) -> None:
    write(als / "f")
    tasks = [globus.submit(globus.new_key(""), request("/f")) for _ in range(3)]
    statuses = globus.poll([*tasks, *tasks, *[f"00000000-0000-4000-8000-{n:012d}" for n in range(60)]])
    assert set(statuses) == set(tasks)
    assert sandbox.requests()["transfer GET /v0.10/task_list"] == 2
    assert globus.poll([]) == {}


def test_a_delete_removes_the_files_named_and_no_directory(globus, als) -> None:
    write(als / "old.h5")
    write(als / "dir/kept.h5")
    document = {"kind": "delete", "collection": ALS_DTN, "label": "prune", "deadline_s": 2, "ignore_missing": True}
    gone = {**document, "items": [{"path": "/old.h5"}, {"path": "/was-never.h5"}]}
    assert ended(globus, globus.submit(globus.new_key(""), gone)).state == TaskState.SUCCEEDED
    assert not (als / "old.h5").exists()
    refused = {**document, "items": [{"path": "/dir"}]}
    assert ended(globus, globus.submit(globus.new_key(""), refused)).state == TaskState.FAILED
    assert (als / "dir/kept.h5").exists()


def test_a_request_that_lacks_something_is_refused_and_not_sent(sandbox, globus) -> None:
    document = request("/f")
    del document["encrypt"]
    with pytest.raises(Refused, match="encrypt"):
        globus.submit(globus.new_key(""), document)
    assert "transfer POST /v0.10/transfer" not in sandbox.requests()


# what a task's state means


def test_waiting_running_and_paused_are_told_apart(sandbox, globus, als) -> None:
    sandbox.fault("transfer", "paused", count=-1)
    write(als / "f")
    tasks = [globus.submit(globus.new_key(""), request("/f")) for _ in range(4)]
    paused = until(globus, tasks[0], lambda s: s.state == TaskState.PAUSED)
    assert "maintenance" in paused.reason and paused.native == "ACTIVE"
    waiting = until(globus, tasks[3], lambda s: True)
    assert waiting.state == TaskState.QUEUED and "turn" in waiting.reason


def test_an_inactive_task_is_paused_for_a_credential_and_not_failed(sandbox, globus, als) -> None:
    sandbox.fault("transfer", "inactive")
    write(als / "f")
    task_id = globus.submit(globus.new_key(""), request("/f"))
    status = until(globus, task_id, lambda s: s.native == "INACTIVE" or not s.state.live)
    assert status.state == TaskState.PAUSED
    assert "credential" in status.reason and "expired" in status.reason


def test_trouble_of_a_running_task_is_shown_while_globus_tries_again(globus, als) -> None:
    task_id = globus.submit(globus.new_key(""), request("/missing"))
    status = until(globus, task_id, lambda s: s.code != "")
    assert (status.state, status.code, status.transient) == (TaskState.RUNNING, "FILE_NOT_FOUND", False)
    assert "tries again until" in status.reason


@pytest.mark.parametrize(
    ("kind", "code", "transient"),
    [
        ("permission_denied", "PERMISSION_DENIED", False),
        ("file_not_found", "FILE_NOT_FOUND", False),
        ("quota", "QUOTA_EXCEEDED", True),
        ("checksum_mismatch", "VERIFY_CHECKSUM", True),
    ],
)
def test_a_failed_task_says_why_and_whether_trying_again_helps(sandbox, globus, als, kind, code, transient) -> None:
    sandbox.fault("transfer", kind, path="/bad", count=-1)
    write(als / "bad")
    write(als / "good")
    task_id = globus.submit(globus.new_key(""), request("/good", "/bad", deadline_s=3))
    status = ended(globus, task_id)
    assert (status.state, status.native, status.code) == (TaskState.FAILED, "FAILED", code)
    assert status.transient is transient and status.reason
    assert globus.successful_files(task_id) == {("/good", "/raw/good")}
    assert code in [event.code for event in globus.events(task_id) if event.is_error]


def test_a_fatal_error_is_the_reason(sandbox, globus, als) -> None:
    sandbox.fault("transfer", "task_failed", code="ENDPOINT_ERROR", description="disk on fire")
    write(als / "f")
    status = ended(globus, globus.submit(globus.new_key(""), request("/f")))
    assert (status.state, status.code) == (TaskState.FAILED, "ENDPOINT_ERROR")
    assert "disk on fire" in status.reason


def test_a_cancelled_task_is_cancelled_and_cancelling_twice_is_no_error(sandbox, globus, als) -> None:
    sandbox.fault("transfer", "paused")
    write(als / "f")
    task_id = globus.submit(globus.new_key(""), request("/f"))
    globus.cancel(task_id)
    globus.cancel(task_id)
    status = ended(globus, task_id)
    assert (status.state, status.native) == (TaskState.CANCELLED, "FAILED")


def test_an_unfinished_task_does_not_say_what_arrived(sandbox, globus, als) -> None:
    sandbox.fault("transfer", "paused")
    write(als / "f")
    with pytest.raises(Refused):
        globus.successful_files(globus.submit(globus.new_key(""), request("/f")))


def test_more_files_than_a_page_are_all_reported(globus, als) -> None:
    names = [f"/{number}" for number in range(150)]
    for name in names:
        write(als / name[1:], b"")
    task_id = globus.submit(globus.new_key(""), request(*names))
    ended(globus, task_id)
    assert len(globus.successful_files(task_id)) == 150


# files


def test_a_directory_is_listed_with_types_sizes_and_times_over_pages(globus, als) -> None:
    write(als / "a.h5", b"12345")
    os.utime(als / "a.h5", (1_700_000_000, 1_700_000_000))
    (als / "dir").mkdir()
    (als / "link").symlink_to("dir")
    os.mkfifo(als / "pipe")
    entries = globus.model_copy(update={"listing_page": 2}).ls(ALS_DTN, "/")
    assert [(entry.name, entry.type) for entry in entries] == [
        ("a.h5", "file"),
        ("dir", "dir"),
        ("link", "link"),
        ("pipe", "other"),
    ]
    assert entries[0] == Entry("a.h5", "file", 5, datetime.fromtimestamp(1_700_000_000, UTC))
    assert globus.ls(ALS_DTN, "/") == entries


def test_a_walk_goes_everywhere_but_through_links(globus, als) -> None:
    write(als / "x/deep/a")
    write(als / "x/b")
    (als / "x/loop").symlink_to(".")
    found = {path: entry.type for path, entry in globus.walk(ALS_DTN, "/x", 100)}
    assert found == {"/x/b": "file", "/x/deep": "dir", "/x/deep/a": "file", "/x/loop": "link"}
    with pytest.raises(Refused, match="more than 2 entries"):
        list(globus.walk(ALS_DTN, "/x", 2))


def test_stat_says_what_is_there_and_none_only_when_the_collection_is_well(sandbox, globus, als) -> None:
    write(als / "f", b"123")
    there = globus.stat(ALS_DTN, "/f")
    assert there is not None and (there.name, there.type, there.bytes) == ("f", "file", 3)
    assert globus.stat(ALS_DTN, "/missing") is None
    sandbox.fault("transfer", "endpoint_down", path="/missing")
    with pytest.raises(Unavailable):
        globus.stat(ALS_DTN, "/missing")
    sandbox.fault("transfer", "status", route="GET */stat", code=404, body="<html>not found</html>")
    with pytest.raises(Unavailable):
        globus.stat(ALS_DTN, "/missing")
    with pytest.raises(Refused, match="collection is gone"):
        globus.stat(GONE, "/f")


def test_a_path_is_not_called_missing_when_its_collection_cannot_be_confirmed(sandbox, globus) -> None:
    sandbox.fault("transfer", "status", route="GET /v0.10/endpoint/*", count=-1)
    for ask in (globus.stat, globus.ls):
        with pytest.raises(Unavailable):
            ask(ALS_DTN, "/missing")


def test_listing_what_is_not_there_or_no_directory_or_out_of_reach_is_told_apart(sandbox, globus, als) -> None:
    write(als / "f")
    with pytest.raises(NotFound):
        globus.ls(ALS_DTN, "/missing")
    with pytest.raises(Refused, match="Not a directory"):
        globus.ls(ALS_DTN, "/f")
    with pytest.raises(Refused, match="collection is gone"):
        globus.ls(GONE, "/")
    sandbox.fault("transfer", "permission_denied", path="/f")
    with pytest.raises(Refused, match="Path not allowed"):
        globus.ls(ALS_DTN, "/f")
    sandbox.fault("transfer", "endpoint_down", path="/*")
    with pytest.raises(Unavailable, match="Could not connect"):
        globus.ls(ALS_DTN, "/")


def test_an_answer_that_is_no_listing_is_not_an_empty_directory(sandbox, globus) -> None:
    for body in ({}, "<html>log in to the guest network</html>", {"DATA": None}):
        sandbox.fault("transfer", "status", route="GET */ls", code=200, body=body)
        with pytest.raises(Unavailable):
            globus.ls(ALS_DTN, "/")


def test_directories_are_made_once_and_files_renamed_never_over_another(globus, als) -> None:
    globus.mkdir(ALS_DTN, "/trash")
    globus.mkdir(ALS_DTN, "/trash")
    write(als / "f")
    globus.rename(ALS_DTN, "/f", "/trash/f")
    assert (als / "trash/f").exists()
    write(als / "f", b"other")
    with pytest.raises(Refused):
        globus.rename(ALS_DTN, "/f", "/trash/f")
    with pytest.raises(Refused):
        globus.mkdir(ALS_DTN, "/f")
    with pytest.raises(NotFound):
        globus.rename(ALS_DTN, "/missing", "/trash/g")


def test_a_rename_whose_answer_was_lost_is_not_repeated(sandbox, globus, als) -> None:
    write(als / "f")
    sandbox.fault("transfer", "drop", route="POST */rename", when="after")
    with pytest.raises(Unavailable):
        globus.rename(ALS_DTN, "/f", "/g")
    assert sum(count for route, count in sandbox.requests().items() if route.endswith("/rename")) == 1
    assert (als / "g").exists()


# outages, credentials, threads


def test_being_asked_to_slow_down_says_until_when(sandbox, globus) -> None:
    globus.new_key("")
    sandbox.fault("transfer", "429", count=-1, retry_after=17)
    with pytest.raises(Unavailable) as raised:
        globus.new_key("")
    assert raised.value.retry_after_s == 17


def test_a_passing_429_and_503_are_not_noticed(sandbox, globus) -> None:
    sandbox.fault("transfer", "429", retry_after=1)
    sandbox.fault("transfer", "status", code=503)
    assert globus.new_key("")


def test_a_silent_service_is_given_up_in_time(sandbox, globus, monkeypatch) -> None:
    monkeypatch.setattr("resources.globus.LISTING_S", 0.3)
    globus.new_key("")
    sandbox.fault("transfer", "timeout", route="GET */ls", delay=60, count=-1)
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        globus.ls(ALS_DTN, "/")
    assert time.monotonic() - began < 30
    assert raised.value.code == "TIMEOUT"


def test_nobody_listening_is_an_outage(globus) -> None:
    nowhere = GlobusTransfer(transfer_url=globus.transfer_url, auth_url="http://127.0.0.1:9/auth/")
    with pytest.raises(Unavailable):
        nowhere.new_key("")
    nowhere = GlobusTransfer(transfer_url="http://127.0.0.1:9/transfer/", auth_url=globus.auth_url)
    with pytest.raises(Unavailable) as raised:
        nowhere.poll(["x"])
    assert raised.value.code == "CONNECTION"


def test_a_missing_or_wrong_secret_names_the_variable_to_set_and_never_the_secret(globus, monkeypatch) -> None:
    monkeypatch.setenv("ALS_GLOBUS_CLIENT_SECRET", "hush-hush")
    with pytest.raises(CredentialProblem) as raised:
        globus.new_key("")
    assert "ALS_GLOBUS_CLIENT_SECRET" in str(raised.value) and "hush-hush" not in str(raised.value)
    monkeypatch.delenv("ALS_GLOBUS_CLIENT_SECRET")
    with pytest.raises(CredentialProblem, match="set ALS_GLOBUS_CLIENT_SECRET"):
        globus.new_key("")


def test_a_rotated_key_file_is_read_without_a_restart(sandbox, globus, monkeypatch, tmp_path) -> None:
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text("expired\n")
    monkeypatch.setenv("ALS_GLOBUS_CLIENT_SECRET", str(file))
    with pytest.raises(CredentialProblem):
        globus.new_key("")
    file.write_text(sandbox.credentials()["auth"]["client_secret"] + "\n")
    assert globus.new_key("")
    file.chmod(0o644)
    other = GlobusTransfer(transfer_url=globus.transfer_url, auth_url=globus.auth_url)
    with pytest.raises(CredentialProblem, match="chmod 600"):
        other.new_key("")


@pytest.mark.parametrize("call", ["new_key", "ls"])
def test_a_revoked_token_is_renewed_unnoticed(sandbox, globus, call) -> None:
    globus.new_key("")
    sandbox.fault("transfer", "token_revoked")
    assert globus.new_key("") if call == "new_key" else globus.ls(ALS_DTN, "/") == []
    assert sandbox.requests()["auth POST /v2/oauth2/token"] == 2


def test_an_expired_token_is_renewed_before_it_is_used(sandbox, globus) -> None:
    sandbox.fault("auth", "expires_in", seconds=61)
    globus.new_key("")
    time.sleep(1.1)
    globus.new_key("")
    assert sandbox.requests()["auth POST /v2/oauth2/token"] == 2
    assert sandbox.requests()["transfer GET /v0.10/submission_id"] == 2


def test_tokens_that_are_never_accepted_are_a_credential_problem(sandbox, globus) -> None:
    sandbox.fault("transfer", "token_revoked", count=-1)
    with pytest.raises(CredentialProblem, match="does not accept the token"):
        globus.new_key("")


def test_a_missing_consent_says_which_scope(sandbox, globus) -> None:
    sandbox.fault("transfer", "consent_required", path="als-dtn")
    with pytest.raises(CredentialProblem, match="data_access") as raised:
        globus.ls(ALS_DTN, "/")
    assert raised.value.code == "ConsentRequired"


def test_an_outage_of_the_login_is_an_outage_and_no_credential_problem(sandbox, globus) -> None:
    sandbox.fault("auth", "status", code=503, count=-1)
    with pytest.raises(Unavailable, match="cannot give a token"):
        globus.new_key("")


def test_threads_share_one_token(sandbox, globus, als) -> None:
    write(als / "f")
    problems: list[Any] = []

    def ask() -> None:
        for _ in range(5):
            if [entry.name for entry in globus.ls(ALS_DTN, "/")] != ["f"]:
                problems.append("another listing")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sandbox.requests()["auth POST /v2/oauth2/token"] == 1


def test_the_flight_check_tries_each_place_and_reports_what_fails(sandbox, globus, als, monkeypatch) -> None:
    write(als / "bl7011/f")
    findings = globus.check([(ALS_DTN, "/bl7011"), (NERSC_CFS, "/missing"), (GONE, "/")])
    assert [(finding.what, finding.ok) for finding in findings] == [
        ("Globus login", True),
        (f"collection {ALS_DTN}", True),
        (f"list {ALS_DTN} /bl7011", True),
        (f"collection {NERSC_CFS}", True),
        (f"list {NERSC_CFS} /missing", False),
        (f"collection {GONE}", False),
    ]
    assert "Make the directory" in findings[4].says
    monkeypatch.delenv("ALS_GLOBUS_CLIENT_ID")
    fresh = GlobusTransfer(transfer_url=globus.transfer_url, auth_url=globus.auth_url)
    (finding,) = fresh.check([(ALS_DTN, "/bl7011")])
    assert not finding.ok and "ALS_GLOBUS_CLIENT_ID" in finding.says


def test_the_sdk_is_loaded_only_when_it_is_used() -> None:
    import subprocess
    import sys

    words = "import resources.globus, sys; assert 'globus_sdk' not in sys.modules; resources.globus.GlobusTransfer()"
    subprocess.run([sys.executable, "-c", words], check=True, cwd=Path(__file__).parents[2])
