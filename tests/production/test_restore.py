"""Yesterday's ledger takes the place of today's, and everything goes on: nothing is submitted, copied or archived a
second time, and nothing is overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from beamlines.spec import Archive, Spec
from resources.ledger import backup, restore, schema

ARCHIVE = Archive(source="cfs", directives={"qos": "xfer", "constraint": "cron", "time": "60", "mem": "2G"})
ASSETS = ["raw_at_cfs", "xpcs_result", "archived_at_hpss", "catalog_entry"]


@pytest.fixture
def archiving(rig: Any) -> Any:
    rig.spec = Spec.model_validate({**rig.spec.model_dump(), "archive": ARCHIVE.model_dump()})
    return rig


def bytes_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    """{path: (mtime, content)} of every file: what was written again has another mtime."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = (path.stat().st_mtime_ns, path.read_bytes())
    return found


def go_back(rig: Any, made: backup.Backup) -> None:
    rig.ledger.close()
    url = f"sqlite:///{rig.ledger_file}"
    rig.until(lambda: not restore.in_use(url, rig.facilities.name))  # the leases of ended runs run out
    restore.restore(url, rig.facilities.name, made.path, "ada")
    rig.ledger = rig.open_ledger()


def test_yesterday_s_ledger_goes_on_without_doing_anything_twice(archiving: Any, tmp_path: Path) -> None:
    rig = archiving
    rig.noticed(1, "old")  # known to the backup, and not begun
    (done,) = rig.noticed(1, "done")
    for asset in ASSETS:
        rig.run(asset, [done])
    rig.scan("begun/s.h5", b"frames in flight")
    (begun,) = rig.notice("begun/s.h5")
    rig.run("raw_at_cfs", [begun])
    made = backup.make(f"sqlite:///{rig.ledger_file}", rig.facilities.name, tmp_path / "backups")
    rig.noticed(1, "new")  # of which the backup knows nothing
    everything = rig.keys()
    assert len(everything) == 4
    for asset in ASSETS:
        assert not rig.run(asset).failed
    rig.executed_once()
    executions = {s: rig.sandbox.executions(s) for s in ("transfer", "sfapi")}
    submitted = sum(n for route, n in rig.sandbox.requests().items() if "POST" in route and "compute/jobs" in route)
    places = [rig.cfs, rig.results, rig.sandbox.dir / "nersc" / "hpss"]
    before = [bytes_below(place) for place in places]

    go_back(rig, made)
    assert len(rig.keys()) == 3
    rig.notice()  # the one of today is noticed again
    for asset in ASSETS:
        ran = rig.run(asset)
        assert not ran.failed, ran.failed
    assert {rig.document(key)["state"] for key in everything} == {"done"}, [rig.document(k)["why"] for k in everything]
    assert [bytes_below(place) for place in places] == before  # nothing was written again
    assert all(rig.sandbox.executions(s) == executions[s] for s in executions)
    again = sum(n for route, n in rig.sandbox.requests().items() if "POST" in route and "compute/jobs" in route)
    assert again == submitted


def test_a_transfer_that_is_under_way_while_the_ledger_goes_back_is_waited_for_and_not_made_again(
    rig: Any, tmp_path: Path
) -> None:
    (key,) = rig.noticed()
    made = backup.make(f"sqlite:///{rig.ledger_file}", rig.facilities.name, tmp_path / "backups")
    rig.sandbox.fault("transfer", "paused", count=-1)
    rig.run("raw_at_cfs", patient=False)
    (task,) = rig.tasks(key)
    go_back(rig, made)
    rig.run("raw_at_cfs", patient=False)
    assert f"waits for Globus task {task.external_id}" in rig.document(key)["why"] and not rig.tasks(key)
    rig.sandbox.box.clear_faults()
    rig.until(lambda: not rig.services["globus"].poll([task.external_id])[task.external_id].state.live)
    with rig.ledger.write() as tx:  # a minute later
        tx.execute(sa.update(schema.steps).values(next_try=rig.ledger.now()))
    assert rig.run("raw_at_cfs").keys == [key]
    assert sum(rig.sandbox.executions("transfer").values()) == 1
    (copy,) = {c["place"]: c for c in rig.document(key)["copies"] if c["verified_at"]}.values()
    assert copy["verified_by"] == "globus-checksum"


def test_a_file_of_somebody_else_is_not_taken_for_ours_after_a_restore(rig: Any, tmp_path: Path) -> None:
    (key,) = rig.noticed()
    made = backup.make(f"sqlite:///{rig.ledger_file}", rig.facilities.name, tmp_path / "backups")
    go_back(rig, made)
    foreign = rig.cfs / rig.found(key).path
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes((rig.dtn / rig.found(key).path).read_bytes())
    assert "that this platform did not write" in rig.run("raw_at_cfs").failed[key]
    assert not rig.sandbox.executions("transfer")
