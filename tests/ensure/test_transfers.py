"""Copies by Globus: what a task that failed, stalled or was refused does to each of its scans, and to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SUBMIT = "transfer POST /v0.10/transfer"


def test_a_hundred_scans_take_one_task_and_few_calls(rig: Any) -> None:
    keys = rig.noticed(100)
    before = dict(rig.sandbox.requests())
    ran = rig.run("raw_at_cfs", keys)
    assert sorted(ran.keys) == sorted(keys)
    calls = {route: n - before.get(route, 0) for route, n in rig.sandbox.requests().items() if "transfer " in route}
    assert calls[SUBMIT] == 1
    listings = sum(n for route, n in calls.items() if route.endswith("/ls"))
    assert listings == 2, "the one folder, before the copy and after it"
    reads = sum(n for route, n in calls.items() if "successful_transfers" in route)
    assert reads <= 3, "200 files, 100 a page"


def test_a_copy_is_proven_file_by_file(rig: Any) -> None:
    (key,) = rig.noticed()
    rig.run("raw_at_cfs")
    copies = [c for c in rig.document(key)["copies"] if c["place"] == "cfs"]
    assert {(c["path"], c["bytes"], c["verified_by"]) for c in copies} == {
        ("day/s000.h5", 15 + 1, "globus-checksum"),
        ("day/s000_roi.h5", 3, "globus-checksum"),
    }
    assert all(c["verified_at"] for c in copies)
    assert (rig.cfs / "day/s000.h5").read_bytes() == b"frames of scan 0"


def test_an_unreadable_file_fails_alone_and_the_rest_of_its_block_arrives(rig: Any) -> None:
    keys = rig.noticed(50)
    rig.sandbox.fault("transfer", "permission_denied", path="*/day/s007.h5", count=-1)
    ran = rig.run("raw_at_cfs", keys)
    assert len(ran.keys) == 49
    assert list(ran.failed) == ["day/s007.h5"]
    why = ran.failed["day/s007.h5"]
    assert "day/s007.h5: copy from bl7011/dtn to bl7011/cfs" in why and "does not allow access" in why
    assert "What to do: give the platform's Globus identity access" in why
    assert "s007" in (rig.tasks("day/s007.h5")[-1].reason or "")
    assert rig.sandbox.requests()[SUBMIT] <= 4


def test_what_arrived_before_a_task_failed_counts_and_the_rest_goes_on_in_smaller_company(rig: Any) -> None:
    keys = rig.noticed(20)
    rig.sandbox.fault("transfer", "quota", path="*/day/s013.h5")  # ends the task at once; 13 scans are there
    ran = rig.run("raw_at_cfs", keys)
    assert sorted(ran.keys) == sorted(keys) and not ran.failed
    attempts = {key: [t.attempt for t in rig.tasks(key, "raw_at_cfs")] for key in keys}
    assert attempts["day/s012.h5"] == [1] and attempts["day/s013.h5"] == [1, 2]
    assert set(rig.sandbox.executions("transfer").values()) == {1}


@pytest.mark.parametrize("kind", ["file_not_found", "checksum_mismatch", "file_size_changed", "no_space"])
def test_trouble_that_passes_is_left_to_globus(rig: Any, kind: str) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", kind, path="*/day/s000.h5")
    rig.pace(stall_s=30)
    ran = rig.run("raw_at_cfs")
    assert ran.keys == [key]
    assert [t.attempt for t in rig.tasks(key)] == [1]


def test_a_file_that_vanished_fails_its_scan_with_the_reason(rig: Any) -> None:
    keys = rig.noticed(3)
    (rig.dtn / "day/s001.h5").unlink()
    ran = rig.run("raw_at_cfs", keys)
    assert sorted(ran.keys) == ["day/s000.h5", "day/s002.h5"]
    assert "a file is not at the source" in ran.failed["day/s001.h5"]
    assert "What to do: see whether the file was moved or deleted" in ran.failed["day/s001.h5"]


def test_a_checksum_that_never_agrees_fails_its_scan_only(rig: Any) -> None:
    keys = rig.noticed(3)
    rig.sandbox.fault("transfer", "checksum_mismatch", path="*/day/s001.h5", count=-1)
    rig.attempts_allowed(3)
    rig.pace(stall_s=0.3)
    ran = rig.run("raw_at_cfs", keys)
    assert sorted(ran.keys) == ["day/s000.h5", "day/s002.h5"]
    assert "the checksums of source and destination differ" in ran.failed["day/s001.h5"]
    assert "(attempt 3 of 3)" in ran.failed["day/s001.h5"]


def test_a_failed_task_is_tried_again_and_its_reason_can_be_read_meanwhile(rig: Any) -> None:
    (key,) = rig.noticed()
    rig.pace(retry_speed=1)
    rig.sandbox.fault("transfer", "task_failed", code="ENDPOINT_ERROR", description="the disk at the source broke")
    rig.until(lambda: rig.run("raw_at_cfs", patient=False) and rig.step(key, "raw_at_cfs").state == "due")
    step = rig.step(key, "raw_at_cfs")
    assert step.attempt == 2
    assert "attempt 1:" in step.why and "the disk at the source broke" in step.why
    assert rig.document(key)["assets"]["raw_at_cfs"]["state"] == "waiting"


@pytest.mark.parametrize(("kind", "words"), [("inactive", "renew it"), ("paused", "maintenance")])
def test_a_held_transfer_uses_up_no_attempt_and_goes_on(rig: Any, kind: str, words: str) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", kind, count=1)
    rig.run("raw_at_cfs", patient=False)
    rig.until(lambda: (rig.follow(), rig.tasks(key)[0].state == "paused")[1])
    shown = rig.document(key)["assets"]["raw_at_cfs"]
    assert shown["state"] == "in_flight" and words in shown["why"]
    rig.sandbox.box.clear_faults()
    assert rig.run("raw_at_cfs").keys == [key]
    assert [t.attempt for t in rig.tasks(key)] == [1]


def test_a_file_of_somebody_else_at_the_destination_is_left_as_it_is_and_becomes_a_question(rig: Any) -> None:
    keys = rig.noticed(2)
    theirs = rig.cfs / "day/s000.h5"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"somebody else's")
    ran = rig.run("raw_at_cfs", keys)
    assert ran.keys == ["day/s001.h5"]
    assert "already has a file" in ran.failed["day/s000.h5"] and "day/s000.h5" in ran.failed["day/s000.h5"]
    assert theirs.read_bytes() == b"somebody else's"
    assert rig.document("day/s000.h5")["state"] == "question"
    theirs.unlink()
    rig.ask("raw_at_cfs", "day/s000.h5")
    assert rig.run("raw_at_cfs").keys[-1:] and theirs.read_bytes() == b"frames of scan 0"
    assert rig.document("day/s000.h5")["state"] != "question", "answered by what was done"


def test_a_file_that_appears_while_globus_rests_is_not_overwritten_either(rig: Any) -> None:
    """The pause may run out between the look at the destination and the submission."""
    keys = rig.noticed(1)
    theirs = rig.cfs / "day/s000.h5"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"somebody else's")
    engine = rig.engine("raw_at_cfs")
    real = engine.family.begin

    def begin(due: Any, resting: Any) -> Any:
        works = real(due, resting)
        with rig.ledger.write() as tx:  # now the pause is over
            from resources.ledger import leases

            leases.resume(tx, "globus")
        return works

    engine.family.begin = begin
    from resources import once
    from resources.errors import Unavailable

    once.pause(rig.ledger, Unavailable("globus", "down"), rig.facilities.pace.patience)
    rig.run("raw_at_cfs", keys, engine=engine)
    assert theirs.read_bytes() == b"somebody else's"


def test_a_folder_that_may_not_be_listed_fails_its_scans_only(rig: Any) -> None:
    good, bad = rig.notice(rig.scan("good/a.h5"), rig.scan("secret/b.h5"))
    rig.sandbox.fault("transfer", "permission_denied", path="*raw/secret", count=-1)
    ran = rig.run("raw_at_cfs")
    assert ran.keys == [good]
    assert "secret" in ran.failed[bad] and "What to do:" in ran.failed[bad]


def test_a_task_that_globus_has_forgotten_fails_with_the_reason(rig: Any) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", "paused", count=1)
    rig.run("raw_at_cfs", patient=False)
    task = rig.tasks(key)[0]
    with rig.sandbox.box.transaction() as docs:
        docs.delete("transfer_task", task.external_id)
        docs.delete("transfer_live", task.external_id)
    rig.pace(unknown_s=0.3)
    ran = rig.run("raw_at_cfs")
    assert not ran.made
    assert f"has not known globus task {task.external_id}" in ran.failed[key]


def test_a_refused_submission_says_who_refused_what(rig: Any) -> None:
    (key,) = rig.noticed()
    body = {"code": "PermissionDenied", "message": "no activity on this collection"}
    rig.sandbox.fault("transfer", "status", route="POST /v0.10/transfer", code=403, body=body, count=-1)
    ran = rig.run("raw_at_cfs")
    assert "no activity on this collection" in ran.failed[key]
    assert "None" not in ran.failed[key]


def test_a_size_that_differs_from_the_scan_s_own_is_no_copy(rig: Any) -> None:
    """It grew between the look at the source and the copy: Globus is content, the platform is not."""
    (key,) = rig.noticed()
    with (rig.dtn / "day/s000.h5").open("ab") as file:
        file.write(b" and more")
    ran = rig.run("raw_at_cfs")
    assert not ran.made
    assert "has 25 bytes, the scan's file has 16 bytes" in ran.failed[key]
    assert len(rig.tasks(key)) == 1, "copying it again cannot help"


def test_a_companion_that_comes_while_the_copy_is_under_way_is_copied_by_itself(rig: Any) -> None:
    (key,) = rig.notice(rig.scan("a.h5", roi=None))
    rig.sandbox.fault("transfer", "paused", count=1)
    rig.run("raw_at_cfs", patient=False)
    (rig.dtn / "a_roi.h5").write_bytes(b"roi")
    rig.notice("a.h5")
    rig.sandbox.box.clear_faults()
    assert rig.run("raw_at_cfs").keys == [key]
    asked = [[Path(i["source_path"]).name for i in t.request["items"]] for t in rig.tasks(key)]
    assert asked == [["a.h5"], ["a_roi.h5"]]
    assert (rig.cfs / "a_roi.h5").exists()


def test_a_retry_that_takes_a_late_companion_along_copies_nothing_twice(rig: Any) -> None:
    (key,) = rig.notice(rig.scan("a.h5", roi=None))
    rig.sandbox.fault("transfer", "paused", count=1)
    rig.sandbox.fault("transfer", "task_failed", count=1)
    rig.run("raw_at_cfs", patient=False)
    (rig.dtn / "a_roi.h5").write_bytes(b"roi")
    rig.notice("a.h5")
    with rig.sandbox.box.transaction() as docs:
        docs.db.execute("delete from faults where doc like '%paused%'")
    assert rig.run("raw_at_cfs").keys == [key]
    asked = [sorted(Path(i["source_path"]).name for i in t.request["items"]) for t in rig.tasks(key)]
    assert asked == [["a.h5"], ["a.h5", "a_roi.h5"]]
