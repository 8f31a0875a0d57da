"""A pruned copy is told to the scan's document, the catalogue and Dagster; the scan stays done."""

from __future__ import annotations

import os
from typing import Any

import dagster as dg
import pytest

from als_assets.pruning.job import prune_job
from beamlines.spec import Prune
from resources.facilities import Facilities
from resources.ledger.resource import LedgerResource
from resources.scicat import SciCat
from sensors import names
from tests.pruning.conftest import only_copies


@pytest.fixture
def catalogued(disk: Any) -> Any:
    """`disk.key`, entered in the catalogue, old enough, and the trash time over."""
    from als import platform

    spec = platform.spec_of("bl7011")
    catalog = spec.catalog.model_dump() | {"describe_at": None}
    disk.rig.spec = only_copies(spec, catalog=catalog)
    (disk.key,) = disk.scans()
    assert not disk.rig.run("catalog_entry").failed
    disk.trash_is_over()
    return disk


def entry(disk: Any) -> dict[str, Any]:
    pid = disk.rig.document(disk.key)["catalog"][0]["pid"]
    found = SciCat(base_url=f"{os.environ['ALS_SANDBOX_URL']}/scicat/api/v3").get_dataset(pid)
    assert found is not None
    return found


def test_a_scan_whose_copy_was_pruned_stays_done_and_says_when_it_went(catalogued: Any) -> None:
    assert catalogued.rig.document(catalogued.key)["state"] == "done"
    catalogued.prune()
    document = catalogued.rig.document(catalogued.key)
    assert document["assets"]["raw_at_dtn"]["state"] == "pruned" and document["assets"]["raw_at_dtn"]["at"]
    assert document["assets"]["catalog_entry"]["why"] == "its copy in dtn was pruned"
    catalogued.rig.run("catalog_entry")
    document = catalogued.rig.document(catalogued.key)
    assert (document["state"], document["why"]) == ("done", None)
    gone = {copy["place"]: copy["pruned_at"] for copy in document["copies"]}
    assert gone["dtn"] and gone["cfs"] is None


def test_the_catalogue_says_where_the_copies_are_and_that_the_central_disk_still_has_it(catalogued: Any) -> None:
    before = entry(catalogued)
    assert before["scientificMetadata"]["copy_dtn"]["value"].endswith("/day/s000.h5")
    catalogued.prune()
    catalogued.rig.run("catalog_entry")
    after = entry(catalogued)
    told = after["scientificMetadata"]
    assert "copy_dtn" not in told and told["copy_dtn_pruned_at"]["value"].startswith("20")
    assert told["copy_cfs"] == before["scientificMetadata"]["copy_cfs"]
    assert told["copy_cfs_verified_at"] == before["scientificMetadata"]["copy_cfs_verified_at"], "a look proves nothing"
    assert after["datasetlifecycle"] == before["datasetlifecycle"]
    assert after["size"] == before["size"] and after["numberOfFiles"] == before["numberOfFiles"]


def test_only_when_the_copy_on_the_central_disk_goes_the_life_cycle_says_so(catalogued: Any) -> None:
    from resources.ledger import removals, schema

    disk = catalogued
    disk.rig.spec = disk.rig.spec.model_copy(update={"prunes": [Prune(place="cfs", after_days=30, needs=["dtn"])]})
    disk.change(schema.copies, schema.copies.c.place == "dtn", state="verified")
    disk.change(schema.evidence, schema.evidence.c.method == "listing", method="htar-crc")
    file = disk.rig.facilities.file
    mine = file.places["bl7011"]
    mine = {**mine, "dtn": mine["dtn"].model_copy(update={"durable": True})}
    disk.rig.facilities = Facilities(file.model_copy(update={"places": {"bl7011": mine}}))
    (disk.rig.cfs / ".als-place.bl7011.cfs").touch()
    with disk.ledger.write() as tx:
        removals.arm(tx, "bl7011", "cfs", "a test", "central", disk.ledger.now())
    disk.prune()
    assert disk.copy(disk.key, "cfs") == "pruned"
    disk.rig.run("catalog_entry")
    life = entry(disk)["datasetlifecycle"]
    assert life["isOnCentralDisk"] is False
    assert life["dateOfDiskPurging"] == entry(disk)["scientificMetadata"]["copy_cfs_pruned_at"]["value"]


def run_job(disk: Any, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    rig = disk.rig
    os.environ["ALS_LEDGER_URL"] = f"sqlite:///{rig.ledger_file}"
    resources = {"ledger": LedgerResource(facilities=rig.facilities.name), **rig.services}
    job = prune_job(rig.spec, rig.facilities)
    return job.execute_in_process(instance=instance, resources=resources, raise_on_error=False)


def observations(instance: dg.DagsterInstance) -> list[dg.AssetObservation]:
    records = instance.fetch_observations(names.asset_key("bl7011", "raw_at_dtn"), limit=10).records
    return [record.asset_observation for record in records if record.asset_observation]


def test_the_job_prunes_and_tells_dagster_once_of_each_copy_that_went(
    disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALS_LEDGER_URL", "")
    keys = disk.scans(2)
    disk.trash_is_over()
    disk.prune()  # by hand, without Dagster
    (late,) = disk.scans(1, folder="late")
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_job(disk, instance).success
        assert {one.partition for one in observations(instance)} == {*keys, late}
        assert run_job(disk, instance).success
        told = observations(instance)
    assert len(told) == 3
    metadata = told[0].metadata
    assert metadata["place"].value == "bl7011/dtn" and metadata["state"].value == "pruned"
    assert "proven in cfs" in metadata["why"].value


def test_defect_04_the_job_fails_when_a_person_has_to_act_and_not_in_an_outage(
    disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune that always raised, so that nothing was ever deleted, and nobody noticed."""
    monkeypatch.setenv("ALS_LEDGER_URL", "")
    disk.scans()
    with dg.DagsterInstance.ephemeral() as instance:
        disk.rig.sandbox.fault("transfer", "endpoint_down", path="*/raw/*", count=-1)
        assert run_job(disk, instance).success, "it waits by itself"
        disk.rig.sandbox.box.clear_faults()
        (disk.root / ".als-place.bl7011.dtn").unlink()
        disk.rig.until(lambda: not run_job(disk, instance).success)
