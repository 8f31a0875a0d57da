"""archived_at_hpss, with the real als-archive against hsi and htar of the sandbox."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from als_assets import archive
from als_assets.ensure import Resting
from beamlines.spec import Archive, Spec
from resources.ledger import leases, products, tasks
from resources.ledger.views import scan_document
from resources.scicat import SciCat
from sandbox import hpss

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


# what als-archive says by its exit code


def attempts(rig: Any, key: str) -> list[int]:
    return [t.attempt for t in rig.tasks(key, ASSET)]


def test_a_maintenance_of_hpss_uses_up_no_attempt_and_one_job_tries_whether_it_is_back(
    archiving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 69, more often than a step may fail. The scans that wait submit nothing meanwhile."""
    monkeypatch.setattr(archive, "LOOKS_AGAIN", timedelta(seconds=0.1))
    keys = archiving.copied(3)
    archiving.attempts_allowed(1)
    archiving.pace(pause_first_s=0.05, pause_most_s=0.1, stay_s=2)
    hpss.configure(archiving.sandbox.box, down=True)
    archiving.until(lambda: archiving.run(ASSET, patient=False) and sum(len(attempts(archiving, k)) for k in keys) >= 6)
    assert {a for key in keys for a in attempts(archiving, key)} == {1}
    waiting = document(archiving, keys[0])["assets"][ASSET]
    assert waiting["state"] in ("waiting", "in_flight")
    pause = archiving.pause_of("hpss")
    assert "HPSS is not available" in pause.reason and "job 33" in pause.reason
    assert archiving.pause_of("nersc") is None, "analyses go on"
    archiving.until(lambda: archiving.pause_of("hpss").until < archiving.ledger.now())
    archiving.until(lambda: (archiving.follow(), archiving.tasks(keys[0]), not live(archiving))[-1])
    engine = archiving.engine(ASSET)
    pairs = [(archiving.step(key, ASSET), archiving.found(key)) for key in keys]
    works = engine.family.begin(pairs, Resting(archiving.ledger, engine.pace))
    assert sorted(type(work).__name__ for work in works) == ["ByTask", "Wait", "Wait"]
    hpss.configure(archiving.sandbox.box, down=False)
    ran = archiving.run(ASSET)
    assert sorted(ran.keys) == sorted(keys) and not ran.failed
    assert {a for key in keys for a in attempts(archiving, key)} == {1}
    assert archiving.pause_of("hpss") is None
    names = {t.request["job"]["commands"][0]["input"]["archive"] for key in keys for t in archiving.tasks(key, ASSET)}
    assert len(names) == sum(len(attempts(archiving, key)) for key in keys), "each task has a name of its own on tape"


def live(rig: Any) -> list[Any]:
    with rig.ledger.read() as tx:
        return [t for t in tasks.live(tx, "nersc") if t.asset == ASSET]


def test_an_announced_maintenance_of_hpss_is_waited_for_without_a_job(archiving: Any) -> None:
    (key,) = archiving.copied()
    archiving.pace(pause_first_s=60, pause_most_s=60)
    archiving.sandbox.fault("sfapi", "outage", machine="archive", text="new tape robot", count=-1)
    archiving.run(ASSET, patient=False)
    assert attempts(archiving, key) == []
    assert "archive is not available: new tape robot" in document(archiving, key)["assets"][ASSET]["why"]
    assert archiving.pause_of("nersc") is None
    archiving.sandbox.box.clear_faults()
    with archiving.ledger.write() as tx:
        leases.resume(tx, "hpss")
    archiving.ask(ASSET, key)
    assert archiving.run(ASSET).keys == [key] and attempts(archiving, key) == [1]


def test_hpss_that_asks_to_be_tried_again_is_tried_again_a_few_times(archiving: Any) -> None:
    """Exit 75."""
    (key,) = archiving.copied()
    archiving.attempts_allowed(2)
    archiving.sandbox.fault("hpss", "tempfail", count=1)
    assert archiving.run(ASSET).keys == [key] and attempts(archiving, key) == [1, 2]
    archiving.ask(ASSET, key)
    archiving.sandbox.fault("hpss", "tempfail", count=-1)
    why = archiving.run(ASSET).failed[key]
    assert "failed (exit 75)" in why and "(attempt 2 of 2)" in why and "What to do:" in why


def test_members_that_htar_left_out_are_named_and_stored_under_another_name(archiving: Any) -> None:
    """Exit 70, and "HTAR SUCCESSFUL": what is lacking is in the message, and on tape there is no manifest."""
    (key,) = archiving.copied()
    archiving.sandbox.fault("hpss", "omit_members", members=1, count=1)
    ran = archiving.run(ASSET)
    assert ran.keys == [key]
    first, second = archiving.tasks(key, ASSET)
    assert (first.attempt, second.attempt) == (1, 2)
    left, stored = (t.request["job"]["commands"][0]["input"]["archive"] for t in (first, second))
    assert left != stored and archive_of(archiving, key).path == stored
    on_tape = archiving.sandbox.dir / "nersc" / "hpss" / stored.lstrip("/")
    assert {p.name for p in on_tape.parent.glob(f"{on_tape.name}*manifest*")}, "a manifest beside the whole one"
    assert not list(on_tape.parent.glob(f"{Path(left).name}*manifest*")), "and none beside the other"


def test_members_that_are_always_left_out_turn_the_partition_red_and_the_message_names_them(archiving: Any) -> None:
    (key,) = archiving.copied()
    archiving.attempts_allowed(2)
    archiving.sandbox.fault("hpss", "omit_members", members=1, count=-1)
    why = archiving.run(ASSET).failed[key]
    assert "failed (exit 70)" in why and "the archive lacks day/s000_roi.h5, 1 of 2 files are in it" in why
    assert "What to do: look at the archive" in why
    assert not document(archiving, key)["safe"] and archive_of(archiving, key) is None


def test_a_corrupt_archive_does_not_count_and_is_made_anew(archiving: Any) -> None:
    (key,) = archiving.copied()
    archiving.sandbox.fault("hpss", "bit_rot", path="*.tar", count=1)
    assert archiving.run(ASSET).keys == [key]
    assert attempts(archiving, key) == [1, 2]
    assert document(archiving, key)["safe"]


def test_a_full_quota_on_tape_is_for_a_person(archiving: Any) -> None:
    """Exit 74."""
    (key,) = archiving.copied()
    archiving.sandbox.fault("hpss", "quota", count=-1)
    why = archiving.run(ASSET).failed[key]
    assert "failed (exit 74)" in why and "What to do: see what HPSS refuses" in why
    assert attempts(archiving, key) == [1]


def test_other_content_under_the_archive_s_name_is_left_as_it_is_and_is_for_a_person(archiving: Any) -> None:
    """Exit 73: only after a ledger was lost can the same name be proposed again."""
    (key,) = archiving.copied()
    archiving.run(ASSET)
    path = archiving.sandbox.dir / "nersc" / "hpss" / archive_of(archiving, key).path.lstrip("/")
    before = path.read_bytes()
    name = archiving.found(key).path
    archiving.forget()
    for disk in (archiving.dtn, archiving.cfs):
        (disk / name).write_bytes(b"of the same name, and other")
    archiving.notice()
    archiving.settle_by_hand(key, "raw_at_cfs")
    shutil.rmtree(archiving.attempts)  # purged scratch: nothing says that this was done
    why = archiving.run(ASSET).failed[key]
    assert "failed (exit 73)" in why and "exists on tape" in why and "What to do: look at what has that name" in why
    assert path.read_bytes() == before and attempts(archiving, key) == [1]


@pytest.mark.parametrize("kind", ["failed", "node_fail"])
def test_a_job_that_slurm_ended_is_no_archive(archiving: Any, kind: str) -> None:
    (key,) = archiving.copied()
    archiving.attempts_allowed(1)
    archiving.sandbox.fault("sfapi", kind, count=-1)
    assert key in archiving.run(ASSET).failed
    assert archive_of(archiving, key) is None and not document(archiving, key)["safe"]
