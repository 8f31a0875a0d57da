"""The catalogue client, over loopback, with pyscicat as it comes underneath."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from resources.errors import CredentialProblem, NotFound, Refused, Unavailable
from resources.scicat import SciCat

PID = "als/bl7011/0f3c5a"
FILES = [
    {"path": "s1.h5", "size": 1000, "time": "2026-02-14T18:00:00.000Z", "chk": "ab" * 32},
    {"path": "s1_roi.h5", "size": 24, "time": "2026-02-14T18:00:01.000Z"},
]
PICTURE = "data:image/png;base64,AAAA"


def raw(**more: Any) -> dict[str, Any]:
    return {
        "pid": PID,
        "type": "raw",
        "datasetName": "s1",
        "ownerGroup": "7.0.1.1",
        "accessGroups": ["ALS-12345"],
        "owner": "Unknown owner",
        "principalInvestigator": "Unknown PI",
        "contactEmail": "beamline@als.test",
        "creationTime": "2026-02-14T18:00:00.123Z",
        "creationLocation": "/LBNL/ALS/7.0.1.1",
        "sourceFolder": "/dtn/7011/2026/02",
        "scientificMetadata": {"energy": {"value": 850.0, "unit": "eV"}, "n": {"value": 4, "unit": ""}},
        **more,
    }


@pytest.fixture
def client(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SciCat]:
    """A client for an account of the sandbox; "ingestor" unless another is named."""

    def make(username: str = "ingestor", password: str = "", **more: Any) -> SciCat:
        variables = f"USER_{username}", f"PASSWORD_{username}"
        known = {a["username"]: a["password"] for a in sandbox.credentials()["scicat"]["accounts"]}
        monkeypatch.setenv(variables[0], username)
        monkeypatch.setenv(variables[1], password or known.get(username, ""))
        return SciCat(
            base_url=f"{sandbox.url}/scicat/api/v3",
            frontend_url=f"{sandbox.url}/scicat",
            username_env=variables[0],
            password_env=variables[1],
            **more,
        )

    return make


@pytest.fixture
def scicat(client: Callable[..., SciCat]) -> SciCat:
    return client()


def held(sandbox: Any, kind: str, pid: str = PID) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (sandbox.box.get(f"scicat_{kind}", pid) or {}).get("items", [])
    return items


def expire_all_tokens(sandbox: Any) -> None:
    with sandbox.box.transaction() as docs:
        docs.db.execute("update docs set doc = json_set(doc, '$.expires', 0) where kind = 'scicat_token'")


# entries


def test_an_entry_is_created_once_and_then_found_unchanged(scicat: SciCat) -> None:
    assert scicat.upsert_dataset(raw()) == "created"
    assert scicat.upsert_dataset(raw()) == "unchanged"


def test_an_entry_that_is_unchanged_is_not_written_again(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw(keywords=["XPCS"], techniques=[{"pid": "x", "name": "XPCS"}], sourceFolder="/a/b/"))
    scicat.upsert_dataset(raw(keywords=["XPCS"], techniques=[{"pid": "x", "name": "XPCS"}], sourceFolder="/a/b/"))
    assert not [route for route in sandbox.requests() if "PATCH" in route]


def test_only_what_changed_is_sent_and_the_rest_stays(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    scicat.ensure_origdatablock(PID, FILES)
    scicat.set_lifecycle(PID, archivable=False, archiveStatusMessage="started")
    new = raw(datasetName="renamed", datasetlifecycle={"retrievable": True}, proposalId="ALS-12345")
    del new["scientificMetadata"]
    assert scicat.upsert_dataset(new) == "updated"
    entry = scicat.get_dataset(PID)
    assert entry is not None
    assert (entry["datasetName"], entry["proposalId"]) == ("renamed", "ALS-12345")
    assert entry["scientificMetadata"]["energy"]["value"] == 850
    assert (entry["size"], entry["numberOfFiles"]) == (1024, 2)
    assert entry["datasetlifecycle"]["archiveStatusMessage"] == "started"
    assert entry["datasetlifecycle"]["retrievable"] is False


def test_metadata_are_replaced_as_a_whole(scicat: SciCat) -> None:
    scicat.upsert_dataset(raw())
    assert scicat.upsert_dataset(raw(scientificMetadata={"energy": {"value": 0.9, "unit": "keV"}})) == "updated"
    entry = scicat.get_dataset(PID)
    assert entry is not None
    assert list(entry["scientificMetadata"]) == ["energy"]
    assert entry["scientificMetadata"]["energy"]["value"] == 0.9


def test_a_life_cycle_in_the_document_is_never_sent(scicat: SciCat) -> None:
    scicat.upsert_dataset(raw(datasetlifecycle={"archiveStatusMessage": "archived"}))
    entry = scicat.get_dataset(PID)
    assert entry is not None and entry["datasetlifecycle"]["archiveStatusMessage"] == "datasetCreated"


def test_a_result_names_its_input_and_is_unchanged_when_entered_again(scicat: SciCat) -> None:
    scicat.upsert_dataset(raw())
    result = raw(pid=f"{PID}/xpcs/standard/r1", type="derived", investigator="Unknown PI", inputDatasets=[PID])
    result |= {"usedSoftware": ["als-analysis@0.1.0"], "jobParameters": {"dq": [1, 2], "dpl": 4.0}}
    del result["principalInvestigator"], result["creationLocation"]
    assert scicat.upsert_dataset(result) == "created"
    assert scicat.upsert_dataset(result) == "unchanged"
    entry = scicat.get_dataset(result["pid"])
    assert entry is not None and entry["inputDatasets"] == [PID]


def test_a_lost_answer_to_the_creation_and_a_repeat_leave_one_entry(scicat: SciCat, sandbox: Any) -> None:
    sandbox.fault("scicat", "drop", route="POST /v3/datasets", when="after")
    with pytest.raises(Unavailable):
        scicat.upsert_dataset(raw())
    assert scicat.upsert_dataset(raw()) == "unchanged"
    assert len(sandbox.box.all("scicat_dataset")) == 1


def test_what_was_entered_survives_the_end_of_the_sandbox(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    scicat.ensure_origdatablock(PID, FILES)
    sandbox.kill()
    with pytest.raises(Unavailable):
        scicat.get_dataset(PID)
    sandbox.start()
    assert scicat.upsert_dataset(raw()) == "unchanged"
    assert scicat.ensure_origdatablock(PID, FILES) == "unchanged"


def test_entries_are_found_by_a_source_folder_that_looks_like_a_date(scicat: SciCat) -> None:
    scicat.upsert_dataset(raw(sourceFolder="/dtn/2026"))
    assert [one["pid"] for one in scicat.find_by_source("/dtn/2026", "/dtn/other")] == [PID]


# files


def test_the_same_files_are_listed_once_however_often(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    assert [scicat.ensure_origdatablock(PID, FILES) for _ in range(3)] == ["created", "unchanged", "unchanged"]
    entry = scicat.get_dataset(PID)
    assert entry is not None
    assert len(held(sandbox, "origdatablocks")) == 1
    assert (entry["size"], entry["numberOfFiles"]) == (1024, 2)


def test_a_lost_answer_to_the_file_list_and_a_repeat_leave_one_list_and_the_right_size(
    scicat: SciCat, sandbox: Any
) -> None:
    scicat.upsert_dataset(raw())
    sandbox.fault("scicat", "drop", route="POST */origdatablocks", when="after")
    with pytest.raises(Unavailable):
        scicat.ensure_origdatablock(PID, FILES)
    assert scicat.ensure_origdatablock(PID, FILES) == "unchanged"
    entry = scicat.get_dataset(PID)
    assert entry is not None
    assert len(held(sandbox, "origdatablocks")) == 1
    assert (entry["size"], entry["numberOfFiles"]) == (1024, 2)


def test_a_file_that_comes_later_is_added_and_what_is_listed_stays(scicat: SciCat) -> None:
    scicat.upsert_dataset(raw())
    scicat.ensure_origdatablock(PID, FILES[:1])
    assert scicat.ensure_origdatablock(PID, FILES[1:]) == "added"
    entry = scicat.get_dataset(PID)
    assert entry is not None
    assert (entry["size"], entry["numberOfFiles"]) == (1024, 2)


def test_a_checksum_that_becomes_known_is_filled_in(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    scicat.ensure_origdatablock(PID, FILES)
    known = [FILES[0], {**FILES[1], "chk": "cd" * 32}]
    assert scicat.ensure_origdatablock(PID, known) == "updated"
    assert scicat.ensure_origdatablock(PID, known) == "unchanged"
    assert [f["chk"] for f in held(sandbox, "origdatablocks")[0]["dataFileList"]] == ["ab" * 32, "cd" * 32]


def test_a_listed_file_with_other_content_is_refused_and_nothing_changes(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    scicat.ensure_origdatablock(PID, FILES)
    with pytest.raises(Refused, match=r"s1\.h5.*new version of the scan"):
        scicat.ensure_origdatablock(PID, [{**FILES[0], "size": 999}])
    assert len(held(sandbox, "origdatablocks")) == 1


def test_two_writers_at_once_leave_one_of_everything(client: Callable[..., SciCat], sandbox: Any) -> None:
    sandbox.fault("scicat", "slow", route="POST *", count=6, delay=0.2)
    meet, states = threading.Barrier(2), []

    def write(scicat: SciCat) -> None:
        meet.wait()
        states.append(scicat.upsert_dataset(raw()))
        states.append(scicat.ensure_origdatablock(PID, FILES))
        states.append(scicat.ensure_attachment(PID, "g2", PICTURE))

    writers = [threading.Thread(target=write, args=(client(),)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entry = client().get_dataset(PID)
    assert entry is not None
    assert sorted(states) == ["created"] * 3 + ["unchanged"] * 3
    assert (entry["size"], entry["numberOfFiles"]) == (1024, 2)
    assert len(sandbox.box.all("scicat_dataset")) == 1
    assert len(held(sandbox, "origdatablocks")) == len(held(sandbox, "attachments")) == 1


def test_a_second_list_from_another_machine_is_set_right(client: Callable[..., SciCat], sandbox: Any) -> None:
    scicat = client()
    scicat.upsert_dataset(raw())
    scicat.ensure_origdatablock(PID, FILES)
    block = {"size": 1024, "dataFileList": [{**f} for f in FILES]}
    scicat.session.call("post", "datasets/als%2Fbl7011%2F0f3c5a/origdatablocks", block)
    assert scicat.ensure_origdatablock(PID, FILES) == "unchanged"
    entry = scicat.get_dataset(PID)
    assert entry is not None
    assert (entry["size"], entry["numberOfFiles"]) == (1024, 2)  # the ingestor may not delete, but the sum is right


# pictures


def test_a_picture_is_attached_once_and_shown_as_the_thumbnail(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    assert scicat.ensure_attachment(PID, "g2", PICTURE) == "created"
    assert scicat.ensure_attachment(PID, "g2", PICTURE) == "unchanged"
    assert len(held(sandbox, "attachments")) == 1
    assert scicat.session.call("get", "datasets/als%2Fbl7011%2F0f3c5a/thumbnail") == {"thumbnail": PICTURE}


def test_a_lost_answer_to_the_picture_and_a_repeat_leave_one(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    sandbox.fault("scicat", "drop", route="POST */attachments", when="after")
    with pytest.raises(Unavailable):
        scicat.ensure_attachment(PID, "g2", PICTURE)
    assert scicat.ensure_attachment(PID, "g2", PICTURE) == "unchanged"
    assert len(held(sandbox, "attachments")) == 1


def test_another_picture_replaces_the_one_of_the_same_caption_only(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    scicat.ensure_attachment(PID, "pattern", PICTURE)
    scicat.ensure_attachment(PID, "g2", PICTURE)
    assert scicat.ensure_attachment(PID, "g2", PICTURE + "BBBB") == "updated"
    pictures = {one["caption"]: one["thumbnail"] for one in held(sandbox, "attachments")}
    assert len(held(sandbox, "attachments")) == 2
    assert pictures == {"pattern": PICTURE, "g2": PICTURE + "BBBB"}


# life cycle


def test_a_life_cycle_change_leaves_the_other_fields(scicat: SciCat) -> None:
    scicat.upsert_dataset(raw())
    assert scicat.set_lifecycle(PID, storageLocation="nersc-hpss", retrievable=True) == "updated"
    purged = "2026-06-01T00:00:00Z"
    assert scicat.set_lifecycle(PID, isOnCentralDisk=False, dateOfDiskPurging=purged) == "updated"
    assert scicat.set_lifecycle(PID, isOnCentralDisk=False, dateOfDiskPurging=purged) == "unchanged"
    entry = scicat.get_dataset(PID)
    assert entry is not None
    now = entry["datasetlifecycle"]
    assert (now["storageLocation"], now["retrievable"], now["isOnCentralDisk"]) == ("nersc-hpss", True, False)


def test_an_archive_package_is_entered_once_even_when_the_answer_is_lost(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    block = {"archiveId": "hpss:/s1.tar", "size": 1000, "packedSize": 900, "version": "htar-1"}
    block["dataFileList"] = FILES[:1]
    sandbox.fault("scicat", "status", route="POST */datablocks", when="after", code=502)
    scicat.ensure_datablock(PID, block)
    assert scicat.ensure_datablock(PID, block) == "unchanged"
    assert len(held(sandbox, "datablocks")) == 1
    assert sum(n for route, n in sandbox.requests().items() if route.endswith("/datablocks") and "POST" in route) == 1


# who asks


def test_an_expired_token_is_renewed_and_nothing_is_noticed(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    expire_all_tokens(sandbox)
    assert scicat.get_dataset(PID) is not None
    expire_all_tokens(sandbox)
    assert scicat.upsert_dataset(raw(datasetName="n2")) == "updated"
    expire_all_tokens(sandbox)
    assert len(scicat.find_by_source("/dtn/7011/2026/02")) == 1


def test_a_token_is_renewed_before_its_life_ends(scicat: SciCat, sandbox: Any) -> None:
    scicat.upsert_dataset(raw())
    scicat.session._renew_at = 0.0
    scicat.get_dataset(PID)
    scicat.get_dataset(PID)
    assert sandbox.requests()["scicat POST /v3/auth/login"] == 2


def test_a_junk_token_is_not_read_as_an_empty_catalogue(scicat: SciCat) -> None:
    scicat.upsert_dataset(raw())
    scicat.session._headers = {"Authorization": "Bearer junk"}
    assert [one["pid"] for one in scicat.find_by_source("/dtn/7011/2026/02")] == [PID]


def test_an_account_that_is_never_recognised_is_a_credential_problem_not_an_absence(
    scicat: SciCat, sandbox: Any
) -> None:
    scicat.upsert_dataset(raw())
    sandbox.fault("scicat", "status", route="GET /v3/auth/whoami", code=401, count=-1)
    with pytest.raises(CredentialProblem, match="did not know it"):
        scicat.find_by_source("/nothing/here")


def test_an_outage_is_not_read_as_an_absence(scicat: SciCat, sandbox: Any) -> None:
    sandbox.fault("scicat", "status", route="GET /v3/auth/whoami", code=503)
    with pytest.raises(Unavailable):
        scicat.get_dataset(PID)
    assert scicat.get_dataset(PID) is None


def test_a_wrong_password_is_a_credential_problem_that_does_not_show_it(client: Callable[..., SciCat]) -> None:
    with pytest.raises(CredentialProblem, match="ingestor") as caught:
        client(password="not-the-password").get_dataset(PID)
    assert "not-the-password" not in str(caught.value)


def test_a_missing_variable_is_named(scicat: SciCat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PASSWORD_ingestor")
    with pytest.raises(CredentialProblem, match="set PASSWORD_ingestor"):
        scicat.get_dataset(PID)


def test_the_token_is_never_in_an_address(scicat: SciCat, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    addresses: list[str] = []
    send = requests.Session.send

    def watched(self: Any, request: Any, **more: Any) -> Any:
        addresses.append(request.url)
        return send(self, request, **more)

    monkeypatch.setattr(requests.Session, "send", watched)
    scicat.get_dataset(PID)
    assert addresses and not [one for one in addresses if "access_token" in one]


# what goes wrong, in words


def test_a_refusal_says_which_field_is_wrong(scicat: SciCat) -> None:
    with pytest.raises(Refused, match=f"would not enter data set {PID}: .*contactEmail|got nope"):
        scicat.upsert_dataset(raw(contactEmail="nope"))


def test_an_update_outside_the_owner_group_is_refused_with_the_account_named(client: Callable[..., SciCat]) -> None:
    scicat = client()
    scicat.upsert_dataset(raw(ownerGroup="ALS-12345", accessGroups=["ingestor"]))
    with pytest.raises(Refused, match="'ingestor' has no permission to update datasetName"):
        scicat.upsert_dataset(raw(ownerGroup="ALS-12345", accessGroups=["ingestor"], datasetName="n2"))


def test_files_of_an_entry_that_does_not_exist_are_not_found(scicat: SciCat) -> None:
    with pytest.raises(NotFound, match="none"):
        scicat.ensure_origdatablock("none", FILES)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "code": 503},
        {"kind": "429", "retry_after": 7},
        {"kind": "drop"},
        {"kind": "timeout", "delay": 60},
        {"kind": "status", "code": 200, "body": "<html>maintenance</html>"},
    ],
    ids=lambda fault: str(fault.get("code", fault["kind"])),
)
def test_a_backend_in_trouble_is_unavailable(
    client: Callable[..., SciCat], sandbox: Any, fault: dict[str, Any]
) -> None:
    sandbox.fault("scicat", route="POST /v3/datasets", **fault)
    timeout_s = 1.0 if fault["kind"] == "timeout" else 30.0
    with pytest.raises(Unavailable) as caught:
        client(timeout_s=timeout_s).upsert_dataset(raw())
    assert caught.value.retry_after_s == (7.0 if fault["kind"] == "429" else None)
    assert (caught.value.code == "timeout") == (fault["kind"] == "timeout")


def test_a_number_that_is_not_finite_is_refused_before_it_is_sent(scicat: SciCat) -> None:
    with pytest.raises(Refused, match="not finite"):
        scicat.upsert_dataset(raw(scientificMetadata={"x": {"value": float("nan"), "unit": ""}}))


# without the privilege to choose pids


def test_without_the_pid_privilege_the_check_says_what_to_ask_for(client: Callable[..., SciCat]) -> None:
    findings = {one.what: one for one in client("user1").check(["7.0.1.1"])}
    bad = findings["SciCat entry with a pid of our own"]
    assert not bad.ok
    assert "CREATE_DATASET_WITH_PID_GROUPS" in bad.says and "choose_pids: false" in bad.says


def test_without_the_pid_privilege_entries_are_found_by_their_key(client: Callable[..., SciCat], sandbox: Any) -> None:
    scicat = client("user1", choose_pids=False)
    sandbox.fault("scicat", "drop", route="POST /v3/datasets", when="after")
    with pytest.raises(Unavailable):
        scicat.upsert_dataset(raw())
    assert scicat.upsert_dataset(raw()) == "unchanged"
    assert scicat.ensure_origdatablock(PID, FILES) == "created"
    result = raw(pid=f"{PID}/xpcs/standard/r1", type="derived", investigator="Unknown PI", inputDatasets=[PID])
    result["usedSoftware"] = ["als-analysis@0.1.0"]
    del result["principalInvestigator"], result["creationLocation"]
    assert [scicat.upsert_dataset(result) for _ in range(2)] == ["created", "unchanged"]
    entry, made = scicat.get_dataset(PID), scicat.get_dataset(result["pid"])
    assert entry is not None and made is not None
    assert entry["pid"] != PID and made["inputDatasets"] == [entry["pid"]]
    assert len(sandbox.box.all("scicat_dataset")) == 2


# flight check


def test_the_check_proves_the_account_by_doing_and_can_be_repeated(client: Callable[..., SciCat]) -> None:
    for _ in range(2):
        assert [one for one in client().check(["7.0.1.1"]) if not one.ok] == []


def test_the_check_tells_a_group_that_is_missing(client: Callable[..., SciCat]) -> None:
    findings = [one for one in client().check(["ALS-12345"]) if not one.ok]
    assert findings[0].what == "SciCat group ALS-12345"
    assert "created but not updated" in findings[0].says
    assert findings[1].what == "SciCat update"


def test_the_check_of_a_backend_that_is_down_is_a_finding_not_an_exception(
    client: Callable[..., SciCat], sandbox: Any
) -> None:
    sandbox.fault("scicat", "status", route="GET /v3/health", code=503)
    assert [one.ok for one in client().check()] == [False]


def test_the_link_of_an_entry_leads_to_a_page_that_shows_it(scicat: SciCat) -> None:
    assert scicat.dataset_url(PID).endswith("/scicat/datasets/als%2Fbl7011%2F0f3c5a")
