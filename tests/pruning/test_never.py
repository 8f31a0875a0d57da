"""What keeps a copy, each through a whole run: the files stay at their names, and the reason is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from als_assets.pruning import State
from resources.facilities import Facilities
from resources.ledger import removals, schema, tasks


def restrict(disk: Any, key: str) -> None:
    disk.change(schema.scans, schema.scans.c.key == key, restricted="export control: the path matches secret/**")


def ask(disk: Any, key: str) -> None:
    disk.change(schema.scans, schema.scans.c.key == key, question="which of the two?")


def fail_the_copy(disk: Any, key: str) -> None:
    mine = schema.steps.c.scan_id == disk.rig.found(key).id
    disk.change(schema.steps, mine & (schema.steps.c.asset == "raw_at_cfs"), state="failed")


def copy_at_nersc(disk: Any, key: str) -> Any:
    mine = (schema.copies.c.scan_id == disk.rig.found(key).id) & (schema.copies.c.place == "cfs")
    return mine


def work_on_it(disk: Any, key: str) -> None:
    with disk.ledger.write() as tx:
        tasks.ask(
            tx, disk.ledger.now(), beamline="bl7011", asset="xpcs_result", purpose="xpcs", system="sfapi",
            service="nersc", proposed_key="als-x-1", request={}, attempt=1, scan_ids=[disk.rig.found(key).id],
        )  # fmt: skip


def unproven(disk: Any, key: str) -> None:
    of_copy = (
        schema.evidence.c.copy_id == sa.select(schema.copies.c.id).where(copy_at_nersc(disk, key)).scalar_subquery()
    )
    disk.change(schema.evidence, of_copy, method="sha256")


def unverified(disk: Any, key: str) -> None:
    disk.change(schema.copies, copy_at_nersc(disk, key), state="present", verified_at=None)


def at_nersc(disk: Any, key: str) -> Path:
    return Path(disk.rig.cfs) / disk.rig.found(key).path


def emptied(disk: Any, key: str) -> None:
    at_nersc(disk, key).write_bytes(b"")


def cut(disk: Any, key: str) -> None:
    path = at_nersc(disk, key)
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, (status.st_atime, status.st_mtime))


def rewritten(disk: Any, key: str) -> None:
    path = at_nersc(disk, key)
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))


def companion_gone(disk: Any, key: str) -> None:
    at_nersc(disk, key).with_name("s000_roi.h5").unlink()


def folder_gone(disk: Any, key: str) -> None:
    shutil.rmtree(at_nersc(disk, key).parent)


def changed_at_the_beamline(disk: Any, key: str) -> None:
    disk.files(key)[0].write_bytes(b"rewritten by the detector")


def gone_at_the_beamline(disk: Any, key: str) -> None:
    disk.files(key)[1].unlink()


KEEPS: dict[str, tuple[Callable[[Any, str], Any], str]] = {
    "it is too young": (lambda disk, key: disk.noticed(key, 29), "stays for 30 days"),
    "somebody holds it": (lambda disk, key: disk.hold(key), "by kim: for the thesis"),
    "a person is asked": (ask, "a person is asked about it: which of the two?"),
    "it is export-controlled": (restrict, "it is export-controlled"),
    "a step has failed": (fail_the_copy, "raw_at_cfs is failed, not done"),
    "a task is at work on it": (work_on_it, "sfapi task als-x-1 (xpcs_result) is at work"),
    "nothing proves the other copy": (unproven, "nothing proves d"),
    "the other copy is not verified": (unverified, "its copy in cfs is present, not verified"),
    "the other copy is empty": (emptied, "s000.h5 has 0 bytes in cfs, not 16"),
    "the other copy is shorter": (cut, "s000.h5 has 15 bytes in cfs, not 16"),
    "the other copy was written since": (rewritten, "s000.h5 was written in cfs after it had been proven"),
    "a companion lacks there": (companion_gone, "s000_roi.h5 is not in cfs any more"),
    "its folder is gone there": (folder_gone, "s000.h5 is not in cfs any more"),
    "it was changed at the beamline": (changed_at_the_beamline, "s000.h5 in bl7011/dtn is not the file that was"),
    "a file is gone at the beamline": (gone_at_the_beamline, "s000_roi.h5 is not in bl7011/dtn any more"),
}
RULES: dict[str, tuple[Callable[[Any, str], Any], str]] = {
    "today's spec demands another copy": (lambda disk, key: disk.rule(needs=["cfs", "hpss"]), "its copy in hpss is"),
    "the proof is too old": (lambda disk, key: disk.rule(evidence_days=1e-9), "too long ago to count"),
}


def test_each_of_these_keeps_its_scan_and_no_other(disk: Any) -> None:
    """All at once: one scan for each reason, and two that nothing keeps."""
    keys = {case: disk.scans(folder=f"d{number:02d}")[0] for number, case in enumerate([*KEEPS, "none", "none too"])}
    for case, (do, _) in KEEPS.items():
        do(disk, keys[case])
    before = {path: path.read_bytes() for key in keys.values() for path in disk.files(key) if path.exists()}
    plan = {item.key: item for item in disk.plan().items.values()}
    disk.trash_is_over()
    report = disk.prune()
    assert {item.key for item in report.of(State.DELETED)} == {keys["none"], keys["none too"]}
    for case, (_, words) in KEEPS.items():
        why = [reason.words for reason in plan[keys[case]].reasons]
        assert plan[keys[case]].state is State.STAYS and any(words in one for one in why), (case, why)
        assert disk.removal(keys[case]) is None, case
        mine = {path: path.read_bytes() for path in disk.files(keys[case]) if path.exists()}
        assert mine == {path: before[path] for path in disk.files(keys[case]) if path in before}, case
    assert disk.trashed() == [] and disk.deletions() == 1


@pytest.mark.parametrize("case", RULES)
def test_it_stays_since(disk: Any, case: str) -> None:
    do, words = RULES[case]
    (key,) = disk.scans()
    do(disk, key)
    assert any(words in reason for reason in disk.why(key)), disk.why(key)
    disk.prune()
    assert disk.there(key) and disk.removal(key) is None and disk.deletions() == 0


def test_nothing_goes_from_a_place_that_is_not_armed_and_a_dry_run_says_what_arming_would_free(disk: Any) -> None:
    (key,) = disk.scans()
    disk.disarmed()
    assert disk.why(key) == ["deletion in bl7011/dtn is not armed"]
    disk.prune()
    assert disk.there(key) and disk.removal(key) is None


@pytest.mark.parametrize("case", ["the other copy is empty", "a companion lacks there"])
def test_staff_are_asked_about_a_copy_that_is_not_what_was_proven_until_it_is_again(disk: Any, case: str) -> None:
    (key,) = disk.scans()
    path = at_nersc(disk, key)
    kept = {one: (one.read_bytes(), one.stat().st_mtime) for one in path.parent.iterdir()}
    KEEPS[case][0](disk, key)
    disk.plan()
    assert disk.question(key) is None, "a dry run asks nobody"
    disk.prune()
    asked = disk.question(key)
    assert asked.startswith(f"{key}: pruning of bl7011/dtn: day/s000") and "What to do:" in asked
    assert disk.rig.document(key)["state"] == "question"
    disk.prune()
    assert disk.history(key).count("question") == 1
    for one, (content, mtime) in kept.items():
        one.write_bytes(content)
        os.utime(one, (mtime, mtime))
    disk.hold(key)  # also when something else keeps it meanwhile
    disk.prune()
    with disk.ledger.write() as tx:
        tx.execute(schema.holds.delete())
    disk.prune()
    assert disk.question(key) is None and disk.state(key) == "in_trash"


def test_a_question_that_somebody_else_asked_is_not_replaced(disk: Any) -> None:
    (key,) = disk.scans()
    emptied(disk, key)
    ask(disk, key)
    disk.prune()
    assert disk.question(key) == "which of the two?"


@pytest.mark.parametrize("fault", ["endpoint_down", "permission_denied"])
def test_a_place_that_cannot_be_looked_at_is_no_place_that_lacks_a_file(disk: Any, fault: str) -> None:
    (key,) = disk.scans()
    disk.rig.sandbox.fault("transfer", fault, path="*/raw/*", count=-1)
    disk.trash_is_over()
    report = disk.prune()
    (item,) = report.items.values()
    assert item.state is State.STAYS and [reason.kind for reason in item.reasons] == ["unknown"]
    assert disk.there(key) and disk.question(key) is None and disk.removal(key) is None
    assert bool(report.troubles) is (fault == "endpoint_down")
    disk.rig.sandbox.box.clear_faults()
    disk.rig.until(lambda: disk.prune() and disk.copy(key) == "pruned")


def test_copies_of_two_places_that_rely_on_each_other_do_not_both_go(disk: Any) -> None:
    """The other one is not counted once it is on its way out itself."""
    rules = [disk.rig.spec.prunes[0], disk.rig.spec.prunes[0].model_copy(update={"place": "cfs", "needs": ["dtn"]})]
    (key,) = disk.scans()
    disk.change(schema.copies, schema.copies.c.place == "dtn", state="verified")
    disk.change(schema.evidence, schema.evidence.c.method == "listing", method="globus-checksum")
    disk.rig.spec = disk.rig.spec.model_copy(update={"prunes": rules})
    file = disk.rig.facilities.file
    mine = file.places["bl7011"]
    mine = {**mine, "dtn": mine["dtn"].model_copy(update={"durable": True})}
    disk.rig.facilities = Facilities(file.model_copy(update={"places": {"bl7011": mine}}))
    (disk.rig.cfs / ".als-place.bl7011.cfs").touch()
    with disk.ledger.write() as tx:
        removals.arm(tx, "bl7011", "cfs", "a test", "both", disk.ledger.now())
    disk.trash_is_over()
    disk.prune()
    disk.prune()
    assert (disk.copy(key), disk.copy(key, "cfs")) == ("pruned", "verified")
    assert at_nersc(disk, key).exists()


def test_a_folder_that_was_exchanged_for_a_link_is_not_followed(disk: Any, tmp_path: Path) -> None:
    """What a link leads to is not in this place, be it the very files."""
    (key,) = disk.scans()
    (disk.root / "day").rename(tmp_path / "elsewhere")
    (disk.root / "day").symlink_to(tmp_path / "elsewhere")
    disk.prune()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["s000.h5", "s000_roi.h5"]
    assert disk.removal(key) is None and "/bl7011/day is a link, and links are not followed" in disk.why(key)[0]


def test_a_companion_of_two_scans_goes_with_neither(disk: Any) -> None:
    """Which of them would be the last to need it?"""
    name = disk.rig.scan("day/a.h5")
    (disk.root / "day" / "a.hdf5").write_bytes(b"another with the same stem")
    keys = disk.rig.notice(name, "day/a.hdf5")
    for key in keys:
        disk.rig._copy(disk.rig.found(key))
        disk.rig.settle_by_hand(key, "raw_at_cfs")
        disk.noticed(key, 40)
    assert disk.why(keys[0]) == [f"day/a_roi.h5 belongs to the scan {keys[1]} as well"]
    disk.prune()
    assert all(disk.there(key) for key in keys)


def test_a_hold_that_has_run_out_keeps_nothing(disk: Any) -> None:
    (key,) = disk.scans()
    disk.hold(key, until=disk.ledger.now())
    disk.prune()
    assert disk.state(key) == "in_trash"


def test_one_scan_that_stays_keeps_no_other(disk: Any) -> None:
    keys = disk.scans(4)
    emptied(disk, keys[1])
    disk.hold(keys[2])
    disk.prune()
    assert [disk.there(key) for key in keys] == [False, True, True, False]
