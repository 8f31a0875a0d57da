"""The defects of the peers (reference: peers.md) that concern deletion: each by its number, as it was, not to happen.

4 is in test_told.py, 13 in tests/als/test_prune.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from als_assets.component import definitions_of
from als_assets.pruning import State
from beamlines.spec import Prune
from resources.facilities import Facilities
from resources.ledger import schema
from sensors import names
from tests.ensure.forked import Forked


def test_defect_01_a_transfer_that_failed_lets_nothing_be_deleted(disk: Any) -> None:
    """`task_wait` is true on FAILED too; the deletion of the only copy was scheduled on it."""
    (key,) = disk.rig.noticed()
    disk.noticed(key, 40)
    disk.rig.attempts_allowed(1)
    disk.rig.sandbox.fault("transfer", "task_failed", count=-1)
    assert disk.rig.run("raw_at_cfs").failed
    disk.trash_is_over()
    disk.prune()
    assert disk.there(key) and disk.removal(key) is None
    assert "raw_at_cfs is failed, not done" in disk.why(key) and "its copy in cfs is missing, not verified" in disk.why(
        key
    )


def test_defect_02_a_copy_that_nobody_compared_lets_nothing_be_deleted(disk: Any) -> None:
    """No integrity check after a transfer: the copy is there, with the right name and size, and that is all."""
    (key,) = disk.scans()
    disk.change(schema.evidence, schema.evidence.c.method == "globus-checksum", method="listing")
    disk.trash_is_over()
    disk.prune()
    assert disk.there(key) and "nothing proves day/s000.h5 in cfs" in disk.why(key)


def test_defect_03_an_empty_file_of_the_same_name_is_no_copy(disk: Any) -> None:
    (key,) = disk.scans()
    (Path(disk.rig.cfs) / disk.rig.found(key).path).write_bytes(b"")
    disk.trash_is_over()
    disk.prune()
    assert disk.there(key) and "day/s000.h5 has 0 bytes in cfs, not 16 as was proven" in disk.why(key)


def test_defect_05_every_place_that_is_pruned_has_a_job_that_the_clock_starts(disk: Any) -> None:
    """A prune was never scheduled because a name differed, and the error was swallowed."""
    definitions = definitions_of(disk.rig.spec, disk.rig.facilities)
    (schedule,) = [one for one in definitions.schedules or [] if one.name == names.prune_schedule("bl7011")]
    assert schedule.job_name == names.prune_job("bl7011") in {job.name for job in definitions.jobs or []}
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_defect_05_a_place_that_the_facility_file_does_not_know_is_told(disk: Any) -> None:
    disk.rig.spec = disk.rig.spec.model_copy(
        update={"prunes": [Prune(place="dtm", after_days=30, needs=["cfs"]), *disk.rig.spec.prunes]}
    )
    (key,) = disk.scans()
    report = disk.prune()
    (trouble,) = report.troubles
    assert "has no place 'dtm' for beamline 'bl7011'" in trouble.words and not trouble.waits
    assert disk.state(key) == "in_trash", "the other place has its turn"


def test_defect_05_a_place_that_the_rule_needs_and_nobody_can_look_at_is_told(disk: Any) -> None:
    (key,) = disk.scans()
    file = disk.rig.facilities.file
    mine = {name: place for name, place in file.places["bl7011"].items() if name != "cfs"}
    disk.rig.facilities = Facilities(file.model_copy(update={"places": {"bl7011": mine}}))
    disk.trash_is_over()
    report = disk.prune()
    assert "has no place 'cfs'" in report.troubles[0].words and disk.there(key)


def two_at_once(ledger: str, facilities: dict[str, Any], environment: dict[str, str], spec: dict[str, Any]) -> None:
    import os

    os.environ.update(environment)
    from als_assets.pruning import AtWork, Pruning
    from beamlines.spec import Spec
    from resources.facilities import FacilityFile
    from resources.ledger import Ledger

    at = Facilities(FacilityFile.model_validate(facilities))
    run = Pruning(Ledger(ledger, at.name), Spec.model_validate(spec), at, dict(at.services), "a test", str(os.getpid()))
    try:
        run.run()
    except AtWork:
        return


def test_defect_06_of_eight_scans_eight_are_pruned_whatever_runs_at_the_same_time(disk: Any) -> None:
    """Two of eight prunes were scheduled: the others were lost in a race."""
    keys = disk.scans(8)
    disk.trash_is_over()
    rig = disk.rig
    asked = (
        f"sqlite:///{rig.ledger_file}", rig.facilities.file.model_dump(mode="json"), rig.environment,
        rig.spec.model_dump(mode="json"),
    )  # fmt: skip
    both = [Forked(target=two_at_once, args=asked, daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    disk.prune()
    assert [disk.copy(key) for key in keys] == ["pruned"] * 8
    assert all(disk.history(key).count("pruned") == 1 for key in keys)
    disk.deletions()  # each task once
    assert disk.trashed() == []


def test_defect_14_what_is_due_is_computed_from_todays_rule_and_no_plan_can_be_lost(disk: Any) -> None:
    """One scheduled run per file was held for 180 days: lose the database, lose the plan; and a changed policy was not
    retroactive."""
    (key,) = disk.scans(days=40)
    disk.rule(after_days=180)
    assert disk.plan().of(State.WOULD_GO) == [] and disk.prune().items == {}
    disk.rule(after_days=39)
    assert [item.key for item in disk.plan().of(State.WOULD_GO)] == [key]
    with disk.ledger.read() as tx:
        assert tx.execute(schema.removals.select()).first() is None, "nothing is planned ahead"
    disk.prune()
    assert disk.state(key) == "in_trash"
    disk.rule(after_days=180)
    disk.trash_is_over()
    disk.prune()
    assert disk.there(key), "also what is in the trash obeys the rule of today"


@pytest.mark.parametrize("full", [0.5, 0.999])
def test_a_full_disk_is_no_reason_to_delete_earlier(disk: Any, full: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A high-water mark never overrides the minimum age: there is none that could."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: (1000, int(1000 * full), int(1000 * (1 - full))))
    (key,) = disk.scans(days=29)
    disk.prune()
    assert disk.there(key)
