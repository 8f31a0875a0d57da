"""Files that are in a place already: taken as copies when they are the scan's own, and only as well as it is proven."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from als_assets import adopting
from beamlines.policy.deletable import PROOFS
from resources.facilities import Facilities
from resources.ledger import scans
from tests.ensure.test_catalogue import Catalogue
from tests.noticing.conftest import DAY, Beamline


def put(beamline: Beamline, name: str, content: bytes | None = None, times: bool = True) -> Path:
    """What the system that runs today has put at NERSC: the scan's file with its ROI, or another content."""
    for path in (name, name.replace(".h5", "_roi.h5")):
        target = beamline.rig.cfs / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copy2 if times else shutil.copyfile)(beamline.rig.dtn / path, target)
    if content is not None:
        mtime = (beamline.rig.dtn / name).stat().st_mtime
        (beamline.rig.cfs / name).write_bytes(content)
        if times:
            os.utime(beamline.rig.cfs / name, (mtime, mtime))
    return beamline.rig.cfs / name


def mounted(beamline: Beamline, *names: str) -> None:
    """Places that this machine has mounted."""
    file = beamline.rig.facilities.file
    roots = {"dtn": beamline.rig.dtn, "cfs": beamline.rig.cfs}
    mine = dict(file.places["bl7011"])
    for name in names:
        mine[name] = mine[name].model_copy(update={"mount": str(roots[name])})
    beamline.rig.facilities = Facilities(file.model_copy(update={"places": {**file.places, "bl7011": mine}}))


def results(beamline: Beamline, *more: str, code: int = 0) -> dict[str, str]:
    ended = beamline.als("adopt", "bl7011", "cfs", "--json", *more)
    assert ended.exit_code == code, ended.output
    return {one["key"]: one["result"] for one in json.loads(ended.stdout)["scans"]}


def submissions(beamline: Beamline) -> int:
    return beamline.rig.sandbox.requests().get("transfer POST /v0.10/transfer", 0)


def state_at_cfs(beamline: Beamline, key: str) -> str | None:
    with beamline.rig.ledger.read() as tx:
        return "verified" if "cfs" in scans.verified_in(tx, beamline.one(key).id) else "present"


def test_what_the_other_system_has_copied_is_not_copied_again(beamline: Beamline) -> None:
    beamline.raw("there.h5")
    beamline.raw("lacking.h5")
    theirs = put(beamline, "there.h5")
    before = theirs.stat()
    assert results(beamline) == {"there.h5": "adopted", "lacking.h5": "absent"}
    assert beamline.rig.run("raw_at_cfs", patient=True, keys=["lacking.h5", "there.h5"]).keys
    assert len(beamline.rig.tasks("there.h5")) == 0 and submissions(beamline) == 1
    assert theirs.stat() == before
    for asset in ("xpcs_result", "catalog_entry"):
        assert sorted(beamline.rig.run(asset).keys) == ["lacking.h5", "there.h5"], "what follows goes on from it"
    assert [why for _, why in beamline.said("adopted")] == ["equal in size and time; its content is not proven"]


def test_without_proof_of_its_content_a_copy_is_not_verified_and_lets_nothing_be_deleted(beamline: Beamline) -> None:
    beamline.raw()
    put(beamline, "a.h5")
    assert results(beamline) == {"a.h5": "adopted"}
    assert state_at_cfs(beamline, "a.h5") == "present"
    document = beamline.rig.document("a.h5")
    assert not document["safe"] and document["assets"]["raw_at_cfs"]["state"] == "materialized"
    assert "its content is not proven" in document["assets"]["raw_at_cfs"]["why"]
    copies = [c for c in document["copies"] if c["place"] == "cfs"]
    assert copies and all(c["verified_at"] is None for c in copies)
    assert adopting.LISTED not in PROOFS
    (made,) = beamline.rig.run("raw_at_cfs").made
    assert made.metadata["verified by"].startswith("nothing: it was there already")


@pytest.mark.parametrize("how", ["job", "mounts"])
def test_where_both_ends_can_be_read_their_digests_prove_it(beamline: Beamline, how: str) -> None:
    beamline.raw("a.h5")
    beamline.raw("other.h5", b"frames", age=200)
    put(beamline, "a.h5", times=False)
    put(beamline, "other.h5", b"FRAMES")  # the same size and time
    mounted(beamline, *(("dtn", "cfs") if how == "mounts" else ("dtn",)))
    assert results(beamline, code=1) == {"a.h5": "proven", "other.h5": "unequal"}
    assert state_at_cfs(beamline, "a.h5") == "verified"
    copies = [c for c in beamline.rig.document("a.h5")["copies"] if c["place"] == "cfs"]
    assert {c["verified_by"] for c in copies} == {"adopted-sha256"} and all(c["sha256"] for c in copies)
    question = beamline.one("other.h5").question or ""
    assert "reads there as SHA-256" in question and "What to do:" in question
    assert len(beamline.rig.sandbox.executions("sfapi")) == (1 if how == "job" else 0), "one job for all of them"
    assert submissions(beamline) == 0


def test_what_is_not_the_same_becomes_a_question_and_stays_as_it_is(beamline: Beamline) -> None:
    for name in ("size.h5", "time.h5", "half.h5", "good.h5"):
        beamline.raw(name, b"frames", age=DAY)
    put(beamline, "size.h5", b"fram")
    put(beamline, "time.h5", b"FRAMES", times=False)
    put(beamline, "half.h5").with_name("half_roi.h5").unlink()
    put(beamline, "good.h5")
    found = results(beamline, code=1)
    assert found == {"size.h5": "unequal", "time.h5": "unequal", "half.h5": "partial", "good.h5": "adopted"}
    assert beamline.rig.document("size.h5")["state"] == "question"
    assert "it has 4 bytes, the scan's file size.h5 has 6" in (beamline.one("size.h5").question or "")
    assert "its content cannot be compared" in (beamline.one("time.h5").question or "")
    assert "it has no half_roi.h5" in (beamline.one("half.h5").question or "")
    beamline.rig.run("raw_at_cfs")
    assert (beamline.rig.cfs / "size.h5").read_bytes() == b"fram" and submissions(beamline) == 0
    assert results(beamline, code=1) == {k: v for k, v in found.items() if k != "good.h5"}
    assert len(beamline.said("question")) >= 3


def test_the_question_that_the_copy_asked_is_settled_by_it(beamline: Beamline) -> None:
    beamline.raw()
    put(beamline, "a.h5")
    assert "already has a file" in beamline.rig.run("raw_at_cfs").failed["a.h5"]
    assert beamline.one().question
    assert results(beamline) == {"a.h5": "adopted"}
    assert beamline.one().question is None and beamline.rig.step("a.h5", "raw_at_cfs").state == "done"


def test_a_lost_ledger_finds_its_copies_again_and_copies_nothing_twice(beamline: Beamline) -> None:
    keys = [beamline.raw("a.h5"), beamline.raw("b.h5")]
    for asset in ("raw_at_cfs", "catalog_entry"):
        beamline.rig.run(asset)
    before = submissions(beamline)
    beamline.rig.forget()
    beamline.__post_init__()
    beamline.settle()
    assert results(beamline) == {"a.h5": "adopted", "b.h5": "adopted"}
    assert beamline.rig.run("catalog_entry").keys == keys
    assert submissions(beamline) == before
    assert len(Catalogue(beamline.rig).datasets()) == 2


def test_a_dry_run_says_the_same_and_writes_nothing(beamline: Beamline) -> None:
    beamline.raw()
    put(beamline, "a.h5")
    before = beamline.everything()
    assert results(beamline, "--dry-run") == {"a.h5": "adopted"}
    assert beamline.everything() == before
    said = beamline.als("adopt", "bl7011", "cfs", "--dry-run").output
    assert "a.h5: adopted, not proven" in said and "nothing was written" in said


def test_adopting_twice_changes_nothing(beamline: Beamline) -> None:
    beamline.raw()
    put(beamline, "a.h5")
    results(beamline)
    before = beamline.everything()
    assert results(beamline) == {} and beamline.everything() == before


def test_what_is_only_observed_can_be_adopted_before_copying_begins(beamline: Beamline) -> None:
    beamline.spec(mode="observe")
    beamline.raw("a.h5")
    beamline.raw("b.h5")
    put(beamline, "a.h5")
    assert results(beamline) == {"a.h5": "adopted", "b.h5": "absent"}
    beamline.spec(mode="copy")
    beamline.look()
    assert sorted(beamline.rig.run("raw_at_cfs").keys) == ["a.h5", "b.h5"]
    assert submissions(beamline) == 1 and len(beamline.rig.tasks("a.h5")) == 0


def test_a_copy_of_our_own_that_is_under_way_is_left_to_it(beamline: Beamline) -> None:
    beamline.raw()
    beamline.rig.sandbox.fault("transfer", "paused", count=1)
    beamline.rig.run("raw_at_cfs", patient=False)
    put(beamline, "a.h5")
    assert results(beamline) == {"a.h5": "under_way"}
    beamline.rig.sandbox.box.clear_faults()
    assert beamline.rig.run("raw_at_cfs").keys == ["a.h5"] and state_at_cfs(beamline, "a.h5") == "verified"


def test_what_a_failed_transfer_of_ours_has_left_is_copied_again_and_not_adopted(beamline: Beamline) -> None:
    beamline.raw()
    beamline.rig.pace(retry_speed=1)
    beamline.rig.sandbox.fault("transfer", "task_failed", code="ENDPOINT_ERROR", description="the disk broke")
    rig = beamline.rig
    rig.until(lambda: rig.run("raw_at_cfs", patient=False) and rig.step("a.h5", "raw_at_cfs").state == "due")
    put(beamline, "a.h5")
    assert results(beamline) == {"a.h5": "under_way"} and rig.step("a.h5", "raw_at_cfs").attempt == 2
    beamline.wait(3600)
    assert rig.run("raw_at_cfs").keys == ["a.h5"] and state_at_cfs(beamline, "a.h5") == "verified"


def test_a_restricted_scan_that_is_there_all_the_same_is_named_and_not_adopted(beamline: Beamline) -> None:
    beamline.spec(export_control={"paths": ["secret/**"]})
    beamline.raw("secret/a.h5")
    put(beamline, "secret/a.h5")
    assert results(beamline, code=1) == {"secret/a.h5": "restricted"}
    assert beamline.rig.step("secret/a.h5", "raw_at_cfs").state == "blocked"


def test_a_place_that_cannot_be_listed_concludes_nothing(beamline: Beamline) -> None:
    beamline.raw()
    before = beamline.everything()
    beamline.rig.sandbox.fault("transfer", "endpoint_down", count=-1)
    ended = beamline.als("adopt", "bl7011", "cfs")
    assert (ended.exit_code == 1 and "Could not connect" in ended.output) or "globus" in ended.output
    assert beamline.everything() == before


def test_a_place_without_copies_is_refused(beamline: Beamline) -> None:
    ended = beamline.als("adopt", "bl7011", "nowhere")
    assert ended.exit_code == 1 and "bl7011 makes no copies in 'nowhere'; it does in cfs" in ended.output


def test_a_comparison_that_was_killed_is_found_again(beamline: Beamline, monkeypatch: pytest.MonkeyPatch) -> None:
    beamline.raw()
    put(beamline, "a.h5")
    mounted(beamline, "dtn")
    real = adopting.once.poll

    def killed(*arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(adopting.once, "poll", killed)
    assert beamline.als("adopt", "bl7011", "cfs").exit_code == 1
    monkeypatch.setattr(adopting.once, "poll", real)
    assert results(beamline) == {"a.h5": "proven"}
    assert list(beamline.rig.sandbox.executions("sfapi").values()) == [1]
