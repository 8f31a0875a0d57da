"""archived_at_hpss, with the real als-archive against hsi and htar of the sandbox."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from beamlines.spec import Archive, Spec
from resources.ledger import products
from resources.ledger.views import scan_document
from resources.scicat import SciCat

ARCHIVE = Archive(source="cfs", directives={"qos": "xfer", "constraint": "cron", "time": "60", "mem": "2G"})
ASSET = "archived_at_hpss"


@pytest.fixture
def archiving(rig: Any) -> Any:
    """The rig, for a beamline that archives."""
    rig.spec = Spec.model_validate({**rig.spec.model_dump(), "archive": ARCHIVE.model_dump()})
    return rig


def document(rig: Any, key: str) -> dict[str, Any]:
    with rig.ledger.read() as tx:
        return scan_document(tx, rig.spec, rig.found(key), {"cfs", "hpss"}, rig.ledger.now())


def archive_of(rig: Any, key: str) -> Any:
    with rig.ledger.read() as tx:
        return products.latest(tx, rig.found(key).id, ASSET)


def test_a_copied_scan_is_archived_verified_and_safe(archiving: Any) -> None:
    (key,) = archiving.copied()
    assert not document(archiving, key)["safe"]
    ran = archiving.run(ASSET)
    assert ran.keys == [key] and not ran.failed
    found = document(archiving, key)
    assert found["assets"][ASSET]["state"] == "materialized"
    assert found["safe"]
    tape = [c for c in found["copies"] if c["place"] == "hpss"]
    assert {c["path"] for c in tape} == {f["path"] for f in found["files"]}
    assert all(c["sha256"] and c["verified_by"] == "htar-crc" for c in tape)
    assert archiving.executed_once()


def test_each_scan_has_an_archive_of_its_own_and_asking_again_makes_another(archiving: Any) -> None:
    keys = archiving.copied(2)
    archiving.run(ASSET)
    first = {key: archive_of(archiving, key).path for key in keys}
    assert len(set(first.values())) == 2
    archiving.ask(ASSET, keys[0])
    assert archiving.run(ASSET).failed == {}
    assert archive_of(archiving, keys[0]).path not in first.values()
    assert archive_of(archiving, keys[1]).path == first[keys[1]]


def test_a_copy_that_differs_from_what_was_noticed_is_not_archived(archiving: Any) -> None:
    (key,) = archiving.copied()
    name = archiving.found(key).path
    (Path(archiving.cfs) / name).write_bytes(b"other content, another size")
    ran = archiving.run(ASSET)
    assert list(ran.failed) == [key]
    assert key in ran.failed[key] and "exit 3" in ran.failed[key] and "What to do:" in ran.failed[key]
    assert archive_of(archiving, key) is None
    assert not document(archiving, key)["safe"]


def test_while_hpss_is_down_the_archive_is_tried_again_and_nothing_is_lost(archiving: Any) -> None:
    archiving.sandbox.fault("hpss", "down", count=1)
    (key,) = archiving.copied()
    assert archiving.run(ASSET).keys == [key]
    assert [t.attempt for t in archiving.tasks(key, ASSET)] == [1, 2]


def test_the_catalogue_tells_where_the_archive_is(archiving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = archiving.copied()
    archiving.run(ASSET)
    assert not archiving.run("catalog_entry").failed
    entry = document(archiving, key)["catalog"][0]
    found = SciCat(base_url=f"{os.environ['ALS_SANDBOX_URL']}/scicat/api/v3").get_dataset(entry["pid"])
    assert found is not None
    life = found["datasetlifecycle"]
    assert (life["archivable"], life["retrievable"]) == (False, True)
    assert life["archiveStatusMessage"] == "datasetOnArchiveDisk"
    assert life["storageLocation"] == "nersc-hpss"
    assert life["isOnCentralDisk"] is True
    assert found["scientificMetadata"]["copy_hpss"]["value"] == archive_of(archiving, key).path


def test_a_lost_ledger_finds_what_it_had_archived(archiving: Any) -> None:
    (key,) = archiving.copied()
    archiving.run(ASSET)
    path = archive_of(archiving, key).path
    archiving.forget()
    archiving.notice()
    archiving.settle_by_hand(key, "raw_at_cfs")
    assert not archiving.run(ASSET).failed
    assert archive_of(archiving, key).path == path
    assert archiving.executed_once()
