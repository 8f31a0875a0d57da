"""The sandbox's Transfer service, asked by the unmodified Globus SDK."""

from __future__ import annotations

import os
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
from globus_sdk.transport import RetryConfig

from sandbox import workers
from sandbox.transfer import ALS_DTN, NERSC_CFS
from tests.conftest import PATIENCE_S

Submit = Callable[..., str]


@pytest.fixture
def client(sandbox: Any) -> globus_sdk.TransferClient:
    """A client made as the SDK's documentation says, with no wait between its retries."""
    account = sandbox.credentials()["auth"]
    login = globus_sdk.ConfidentialAppAuthClient(
        account["client_id"], account["client_secret"], base_url=f"{sandbox.url}/auth/"
    )
    authorizer = globus_sdk.ClientCredentialsAuthorizer(login, globus_sdk.TransferClient.scopes.all)
    retries = RetryConfig(max_sleep=0.01)
    return globus_sdk.TransferClient(authorizer=authorizer, base_url=f"{sandbox.url}/transfer/", retry_config=retries)


@pytest.fixture
def als(sandbox: Any) -> Path:
    return Path(sandbox.dir / "als/dtn")


@pytest.fixture
def nersc(sandbox: Any) -> Path:
    return Path(sandbox.dir / "nersc/cfs")


@pytest.fixture
def submit(client: globus_sdk.TransferClient) -> Submit:
    """submit({"/from": "/to"}, verify_checksum=…) → task id."""

    def act(files: dict[str, str], recursive: bool = False, **options: Any) -> str:
        data = globus_sdk.TransferData(ALS_DTN, NERSC_CFS, **{"verify_checksum": True, **options})
        for source, destination in files.items():
            data.add_item(source, destination, recursive=recursive)
        return str(client.submit_transfer(data)["task_id"])

    return act


def ended(client: globus_sdk.TransferClient, task_id: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    return until(client, task_id, lambda task: task["status"] in ("SUCCEEDED", "FAILED"), patience_s)


def until(
    client: globus_sdk.TransferClient, task_id: str, enough: Callable[[Any], bool], patience_s: float = PATIENCE_S
) -> dict[str, Any]:
    limit = time.monotonic() + patience_s
    while True:
        task = client.get_task(task_id).data
        if enough(task):
            return task
        assert time.monotonic() < limit, task
        time.sleep(0.03)


def codes(client: globus_sdk.TransferClient, task_id: str) -> list[str]:
    return [event["code"] for event in client.task_event_list(task_id, limit=100)][::-1]


def write(path: Path, content: bytes = b"frames") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def mover_of(sandbox: Any) -> int:
    movers = [pid for pid in workers.of(sandbox.dir) if b"sandbox.mover" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(movers) == 1, movers
    return movers[0]


# moving files


def test_a_file_arrives_with_its_bytes_and_its_time(client, submit, als, nersc) -> None:
    source = write(als / "scan.h5", os.urandom(3_000_000))
    os.utime(source, (1_600_000_000, 1_600_000_000))
    task = ended(client, submit({"/scan.h5": "/raw/2026/scan.h5"}, preserve_timestamp=True))
    assert task["status"] == "SUCCEEDED"
    assert (task["files_transferred"], task["bytes_transferred"]) == (1, 3_000_000)
    arrived = nersc / "raw/2026/scan.h5"
    assert arrived.read_bytes() == source.read_bytes()
    assert int(arrived.stat().st_mtime) == 1_600_000_000
    assert [path.name for path in arrived.parent.iterdir()] == ["scan.h5"], "no temporary file stays"


@pytest.mark.parametrize("name", ["two words.h5", 'it\'s "quoted".h5', "$HOME;rm -rf.h5", "-rf", "μ日本.h5", "é" * 127])
def test_odd_names_survive(client, submit, als, nersc, name) -> None:
    write(als / name, name.encode())
    assert ended(client, submit({f"/{name}": f"/in/{name}"}))["status"] == "SUCCEEDED"
    assert (nersc / "in" / name).read_bytes() == name.encode()
    assert [entry["name"] for entry in client.operation_ls(NERSC_CFS, "/in")] == [name]


def test_a_directory_goes_with_everything_below_but_links_stay_behind(client, submit, als, nersc) -> None:
    write(als / "scan/a.imm")
    write(als / "scan/deep/b.imm")
    (als / "scan/link.imm").symlink_to("a.imm")
    task = ended(client, submit({"/scan": "/scan"}, recursive=True))
    assert task["status"] == "SUCCEEDED"
    found = sorted(str(path.relative_to(nersc)) for path in nersc.rglob("*") if path.is_file())
    assert found == ["scan/a.imm", "scan/deep/b.imm"]
    listed = client.paginated.task_successful_transfers(task["task_id"]).items()
    assert {one["destination_path"] for one in listed} == {"/scan/a.imm", "/scan/deep/b.imm"}


def test_five_hundred_files_take_one_mover_a_few_seconds(client, submit, als, nersc) -> None:
    for number in range(500):
        write(als / f"burst/{number}.h5", b"x" * 10_000)
    began = time.monotonic()
    task_id = submit({f"/burst/{n}.h5": f"/burst/{n}.h5" for n in range(500)})
    assert ended(client, task_id)["files_transferred"] == 500
    assert time.monotonic() - began < 30, "with a mover for each it would be a minute"
    assert len(list((nersc / "burst").iterdir())) == 500


def test_three_tasks_run_at_once_and_the_fourth_waits_its_turn(sandbox, client, submit, als) -> None:
    sandbox.fault("transfer", "paused", count=-1)
    for number in range(4):
        write(als / f"{number}.h5")
    tasks = [submit({f"/{number}.h5": f"/{number}.h5"}) for number in range(4)]
    until(client, tasks[2], lambda task: task["is_paused"])
    assert client.get_task(tasks[3])["nice_status"] == "Queued"
    sandbox.box.clear_faults()
    assert [ended(client, task)["status"] for task in tasks] == ["SUCCEEDED"] * 4


@pytest.mark.parametrize(("level", "moved"), [(None, 1), (0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_sync_level_decides_whether_to_copy_again(client, submit, als, nersc, level, moved) -> None:
    write(als / "f", b"new!")
    old = write(nersc / "f", b"old!")
    os.utime(old, (1, 1))
    options = {} if level is None else {"sync_level": level}
    task = ended(client, submit({"/f": "/f"}, **options))
    assert (task["files_transferred"], task["files_skipped"]) == (moved, 1 - moved)
    assert old.read_bytes() == (b"new!" if moved else b"old!")


def test_a_delete_task_removes_what_it_names_and_follows_no_link(client, als) -> None:
    write(als / "gone.h5")
    kept = write(als / "kept/target.h5")
    (als / "link").symlink_to("kept")
    data = globus_sdk.DeleteData(ALS_DTN, recursive=True)
    for path in ("/gone.h5", "/link"):
        data.add_item(path)
    assert ended(client, client.submit_delete(data)["task_id"])["status"] == "SUCCEEDED"
    assert not (als / "gone.h5").exists() and not (als / "link").is_symlink() and kept.exists()


# once


def test_the_same_submission_id_is_the_same_task(sandbox, client, als) -> None:
    write(als / "f")
    data = globus_sdk.TransferData(ALS_DTN, NERSC_CFS, submission_id=client.get_submission_id()["value"])
    data.add_item("/f", "/f")
    first, second = client.submit_transfer(data), client.submit_transfer(data)
    assert (first["code"], second["code"]) == ("Accepted", "Duplicate")
    assert first["task_id"] == second["task_id"]
    ended(client, first["task_id"])
    assert sandbox.executions("transfer") == {first["task_id"]: 1}


def test_a_lost_answer_leaves_one_task_since_the_sdk_sends_the_same_id_again(sandbox, client, submit, als) -> None:
    write(als / "f")
    sandbox.fault("transfer", "status", route="POST /v0.10/transfer", when="after", code=502)
    task_id = submit({"/f": "/f"})
    assert sandbox.requests()["transfer POST /v0.10/transfer"] == 2
    assert client.task_list()["total"] == 1
    ended(client, task_id)
    assert sandbox.executions("transfer") == {task_id: 1}


def test_the_sdk_gets_through_429_and_503_and_a_dropped_connection(sandbox, client) -> None:
    for kind in ("429", "status", "drop"):
        sandbox.fault("transfer", kind, route="GET /v0.10/endpoint/*")
    assert client.get_endpoint(ALS_DTN)["display_name"] == "als-dtn"
    assert sandbox.requests()[f"transfer GET /v0.10/endpoint/{ALS_DTN}"] == 4


def test_killing_the_server_stops_no_transfer_and_forgets_nothing(sandbox, client, submit, als, nersc) -> None:
    content = os.urandom(200_000)
    write(als / "f", content)
    sandbox.fault("transfer", "paused")
    task_id = submit({"/f": "/f"})
    until(client, task_id, lambda task: task["is_paused"])
    mover = mover_of(sandbox)
    assert os.getsid(mover) == mover, "it has a session of its own: no Ctrl-C reaches it"
    sandbox.kill()
    sandbox.start()
    assert mover_of(sandbox) == mover
    sandbox.box.clear_faults()
    assert ended(client, task_id)["status"] == "SUCCEEDED"
    assert (nersc / "f").read_bytes() == content
    assert sandbox.executions("transfer") == {task_id: 1}


def test_a_mover_killed_in_the_middle_is_replaced_by_one_that_goes_on(sandbox, client, submit, als, nersc) -> None:
    small, large = os.urandom(1000), os.urandom(4_000_000)
    write(als / "small", small)
    write(als / "large", large)
    sandbox.fault("transfer", "slow_transfer", path="/large", bytes_per_s=200_000)
    task_id = submit({"/small": "/small", "/large": "/large"})
    until(client, task_id, lambda task: 0 < task["bytes_transferred"] < 4_000_000)
    arrived = (nersc / "small").stat().st_mtime_ns
    os.kill(mover_of(sandbox), 9)
    task = ended(client, task_id)
    assert (task["status"], task["files_transferred"]) == ("SUCCEEDED", 2)
    assert (nersc / "small").stat().st_mtime_ns == arrived, "what had arrived was not sent again"
    assert (nersc / "large").read_bytes() == large
    assert sorted(path.name for path in nersc.iterdir()) == ["large", "small"]
    assert sandbox.executions("transfer") == {task_id: 1}


def test_killing_server_and_mover_costs_time_only(sandbox, client, submit, als, nersc) -> None:
    content = os.urandom(2_000_000)
    write(als / "f", content)
    sandbox.fault("transfer", "slow_transfer", bytes_per_s=200_000)
    task_id = submit({"/f": "/f"})
    until(client, task_id, lambda task: task["bytes_transferred"] > 0)
    mover = mover_of(sandbox)
    sandbox.kill()
    os.kill(mover, 9)
    sandbox.start()
    assert ended(client, task_id)["status"] == "SUCCEEDED"
    assert (nersc / "f").read_bytes() == content
    assert sandbox.executions("transfer") == {task_id: 1}


# when it goes wrong


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("permission_denied", "PERMISSION_DENIED"),
        ("no_space", "NO_SPACE_LEFT"),
        ("file_size_changed", "FILE_SIZE_CHANGED"),
        ("endpoint_down", "CONNECT_FAILED"),
        ("checksum_mismatch", "VERIFY_CHECKSUM"),
    ],
)
def test_passing_trouble_is_noted_and_overcome(sandbox, client, submit, als, nersc, kind, code) -> None:
    write(als / "f")
    sandbox.fault("transfer", kind, path="/f")
    task = ended(client, submit({"/f": "/f"}))
    assert (task["status"], task["faults"]) == ("SUCCEEDED", 1)
    assert codes(client, task["task_id"]) == ["STARTED", code, "SUCCEEDED"]
    assert (nersc / "f").read_bytes() == b"frames"


def test_a_damaged_file_goes_unnoticed_by_a_task_that_verifies_nothing(sandbox, client, submit, als, nersc) -> None:
    write(als / "f")
    sandbox.fault("transfer", "checksum_mismatch")
    assert ended(client, submit({"/f": "/f"}, verify_checksum=False))["status"] == "SUCCEEDED"
    assert (nersc / "f").read_bytes() != b"frames"


def test_lasting_trouble_ends_at_the_deadline_and_the_other_files_arrive(client, submit, als, nersc) -> None:
    write(als / "good")

    def in_seconds(seconds: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + seconds))

    deadline = in_seconds(600)
    task_id = submit({"/missing": "/missing", "/good": "/good"}, deadline=deadline)
    waiting = until(client, task_id, lambda task: task["faults"] > 0 and task["files_transferred"] == 1)
    assert (waiting["status"], waiting["nice_status"]) == ("ACTIVE", "FILE_NOT_FOUND")
    assert waiting["deadline"] == deadline
    client.update_task(task_id, {"deadline": in_seconds(0)})
    task = ended(client, task_id)
    assert (task["status"], task["fatal_error"]["code"], task["subtasks_expired"]) == ("FAILED", "TIMEOUT", 1)
    assert (nersc / "good").exists()
    assert [one["source_path"] for one in client.task_successful_transfers(task_id)] == ["/good"]


def test_quota_errors_are_fatal_only_when_asked(sandbox, client, submit, als) -> None:
    write(als / "f")
    sandbox.fault("transfer", "quota", count=2)
    task = ended(client, submit({"/f": "/a"}, fail_on_quota_errors=True))
    assert (task["status"], task["fatal_error"]["code"]) == ("FAILED", "QUOTA_EXCEEDED")
    assert ended(client, submit({"/f": "/b"}, fail_on_quota_errors=False))["status"] == "SUCCEEDED"


def test_skipped_source_errors_are_listed(client, submit, als, nersc) -> None:
    write(als / "good")
    task = ended(client, submit({"/missing": "/missing", "/good": "/good"}, skip_source_errors=True))
    assert (task["status"], task["subtasks_skipped_errors"]) == ("SUCCEEDED", 1)
    skipped = list(client.task_skipped_errors(task["task_id"]))
    assert [(one["source_path"], one["error_code"]) for one in skipped] == [("/missing", "FILE_NOT_FOUND")]


def test_an_inactive_task_goes_on_when_it_may(sandbox, client, submit, als) -> None:
    write(als / "f")
    sandbox.fault("transfer", "inactive")
    task_id = submit({"/f": "/f"})
    until(client, task_id, lambda task: task["status"] == "INACTIVE")
    sandbox.box.clear_faults()
    assert ended(client, task_id)["status"] == "SUCCEEDED"


def test_a_paused_task_is_active_and_can_be_cancelled(sandbox, client, submit, als, nersc) -> None:
    write(als / "f")
    sandbox.fault("transfer", "paused")
    task_id = submit({"/f": "/f"})
    assert until(client, task_id, lambda task: task["is_paused"])["status"] == "ACTIVE"
    assert client.task_pause_info(task_id)["pause_rules"]
    assert client.cancel_task(task_id)["code"] in ("Canceled", "CancelAccepted")  # the latter when it takes longer
    task = ended(client, task_id)
    assert (task["status"], task["subtasks_canceled"]) == ("FAILED", 1)
    assert codes(client, task_id)[-1] == "CANCELED"
    assert not (nersc / "f").exists()
    assert client.cancel_task(task_id)["code"] == "TaskComplete"


@pytest.mark.parametrize("path", ["/../secret", "/out/secret"])
def test_no_path_leads_out_of_a_collection(sandbox, client, submit, als, nersc, path) -> None:
    write(als.parent / "secret")
    (als / "out").symlink_to("..")
    task_id = submit({path: "/f"})
    until(client, task_id, lambda task: task["faults"] > 0)
    client.cancel_task(task_id)
    assert codes(client, task_id)[:2] == ["STARTED", "PERMISSION_DENIED"] and not (nersc / "f").exists()
    with pytest.raises(globus_sdk.TransferAPIError) as refusal:
        client.operation_stat(ALS_DTN, path)
    assert (refusal.value.http_status, refusal.value.code) == (403, "EndpointPermissionDenied")


def test_what_is_no_task_is_refused_as_the_service_does(client) -> None:
    for change, code in (
        ({"DATA": []}, "ClientError.BadRequest.NoTransferItems"),
        ({"submission_id": "mine"}, "BadRequest"),
        ({"label": "no; such <label>"}, "BadRequest"),
        ({"source_endpoint": str(uuid.uuid4())}, "EndpointNotFound"),
    ):
        data = globus_sdk.TransferData(ALS_DTN, NERSC_CFS, submission_id=str(uuid.uuid4()))
        data.add_item("/f", "/f")
        data.update(change)
        with pytest.raises(globus_sdk.TransferAPIError) as refusal:
            client.submit_transfer(data)
        assert refusal.value.code == code and refusal.value.request_id
    assert client.task_list()["total"] == 0


# lists


def test_tasks_are_listed_by_id_status_and_label_in_pages(client, submit, als) -> None:
    write(als / "f")
    tasks = [submit({"/f": f"/{number}"}, label=f"block {number}") for number in range(5)]
    for task_id in tasks:
        ended(client, task_id)
    some = client.task_list(filter={"task_id": [*tasks[:2], str(uuid.uuid4())]})
    assert {task["task_id"] for task in some} == set(tasks[:2])
    assert client.task_list(filter={"status": ["ACTIVE", "INACTIVE"]})["total"] == 0
    assert [task["task_id"] for task in client.task_list(filter="label:~*3")] == [tasks[3]]
    pages = [client.task_list(limit=2, offset=offset, orderby="label ASC") for offset in (0, 2, 4)]
    assert [task["label"] for page in pages for task in page] == [f"block {number}" for number in range(5)]


def test_a_listing_is_filtered_ordered_and_paged(client, als) -> None:
    for name, size in (("b.h5", 3), ("a.h5", 1), ("c.txt", 2), (".hidden", 0)):
        write(als / name, b"x" * size)
    (als / "d").mkdir()

    def names(**query: Any) -> list[str]:
        return [entry["name"] for entry in client.operation_ls(ALS_DTN, "/", **query)]

    assert names() == [".hidden", "a.h5", "b.h5", "c.txt", "d"]
    assert names(show_hidden=False) == ["a.h5", "b.h5", "c.txt", "d"]
    assert names(filter={"name": "~*.h5"}) == ["a.h5", "b.h5"]
    assert names(filter={"type": ["dir"]}) == ["d"]
    assert names(filter={"type": "file"}, orderby="size DESC", limit=2, offset=1) == ["c.txt", "a.h5"]


def test_a_link_says_where_it_leads_unless_that_is_outside(client, als) -> None:
    write(als / "f", b"12345")
    (als / "inside").symlink_to("f")
    (als / "outside").symlink_to("/etc/passwd")
    entries = {entry["name"]: entry for entry in client.operation_ls(ALS_DTN, "/")}
    assert (entries["inside"]["type"], entries["inside"]["size"], entries["inside"]["link_target"]) == ("file", 5, "f")
    assert entries["outside"]["type"] == "invalid_symlink"


def test_directories_are_made_and_files_renamed_never_over_another(client, als) -> None:
    write(als / "f")
    client.operation_mkdir(ALS_DTN, "/new")
    with pytest.raises(globus_sdk.TransferAPIError) as refusal:
        client.operation_mkdir(ALS_DTN, "/new")
    assert (refusal.value.http_status, refusal.value.code) == (502, "ExternalError.MkdirFailed.Exists")
    client.operation_rename(ALS_DTN, "/f", "/new/g")
    assert (als / "new/g").exists() and not (als / "f").exists()
    write(als / "h", b"other")
    with pytest.raises(globus_sdk.TransferAPIError):
        client.operation_rename(ALS_DTN, "/h", "/new/g")
    assert (als / "new/g").read_bytes() == b"frames"


def test_a_task_has_a_page_for_people(sandbox, client, submit, als) -> None:
    write(als / "<b>.h5")
    sandbox.fault("transfer", "permission_denied")
    task_id = submit({"/<b>.h5": "/f"}, label="block 7")
    ended(client, task_id)
    with urllib.request.urlopen(f"{sandbox.url}/transfer/activity/{task_id}") as answer:
        page = answer.read().decode()
    assert "SUCCEEDED" in page and "block 7" in page and "PERMISSION_DENIED" in page and "<b>" not in page


# login


def test_a_token_that_was_revoked_is_renewed_once(sandbox, client) -> None:
    client.get_endpoint(ALS_DTN)
    sandbox.fault("transfer", "token_revoked")
    assert client.get_endpoint(ALS_DTN)["id"] == ALS_DTN
    assert sandbox.requests()["auth POST /v2/oauth2/token"] == 2


def test_a_wrong_secret_gets_no_token_and_no_token_gets_no_answer(sandbox) -> None:
    account = sandbox.credentials()["auth"]
    login = globus_sdk.ConfidentialAppAuthClient(account["client_id"], "guess", base_url=f"{sandbox.url}/auth/")
    with pytest.raises(globus_sdk.AuthAPIError) as refusal:
        login.oauth2_client_credentials_tokens(globus_sdk.TransferClient.scopes.all)
    assert refusal.value.http_status == 401
    stranger = globus_sdk.TransferClient(
        authorizer=globus_sdk.AccessTokenAuthorizer("guess"), base_url=f"{sandbox.url}/transfer/"
    )
    with pytest.raises(globus_sdk.TransferAPIError) as refused:
        stranger.get_endpoint(ALS_DTN)
    assert refused.value.http_status == 401


def test_the_sdks_own_app_logs_in(sandbox, monkeypatch) -> None:
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", f"{sandbox.url}/auth/")
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_TRANSFER", f"{sandbox.url}/transfer/")
    account = sandbox.credentials()["auth"]
    app = globus_sdk.ClientApp(
        "test",
        client_id=account["client_id"],
        client_secret=account["client_secret"],
        config=globus_sdk.GlobusAppConfig(token_storage="memory"),
    )
    assert globus_sdk.TransferClient(app=app).get_endpoint(NERSC_CFS)["display_name"] == "nersc-cfs"
