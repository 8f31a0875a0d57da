"""`catalog_entry`: what is in the catalogue, when, and that nothing is there twice. Read back through pyscicat."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pyscicat.client import ScicatClient

from resources import once
from resources.errors import Unavailable


class Catalogue:
    """What the catalogue has, asked with the unmodified pyscicat."""

    def __init__(self, rig: Any) -> None:
        account = rig.sandbox.credentials()["scicat"]
        base = rig.sandbox.url + "/scicat/api/v3"
        self.client = ScicatClient(base_url=base, username=account["username"], password=account["password"])

    def datasets(self) -> dict[str, dict[str, Any]]:
        return {d["pid"]: d for d in self.client.datasets_get_many({})}

    def of(self, pid: str, part: str) -> list[dict[str, Any]]:
        where = f"datasets/{pid.replace('/', '%2F')}/{part}"
        found = self.client._call_endpoint(cmd="get", endpoint=where, operation=part)
        return list(found or [])


@pytest.fixture
def catalogue(rig: Any) -> Catalogue:
    return Catalogue(rig)


def test_a_scan_is_entered_with_files_checksums_metadata_and_a_thumbnail(
    rig: Any, catalogue: Catalogue, simulated: tuple[bytes, bytes]
) -> None:
    data, roi = simulated
    (key,) = rig.notice(rig.scan("day/a.h5", data, roi))
    rig.run("raw_at_cfs")
    ran = rig.run("catalog_entry")
    ((pid, entry),) = catalogue.datasets().items()
    assert entry["type"] == "raw" and entry["creationLocation"] == "/LBNL/ALS/7.0.1.1"
    assert (
        entry["scientificMetadata"]["photon_energy"] | {"value": 778.1, "unit": "eV"}
        == (entry["scientificMetadata"]["photon_energy"])
    )
    assert entry["scientificMetadata"]["sample_temperature"]["unit"] == "K"
    assert (entry["size"], entry["numberOfFiles"]) == (len(data) + len(roi), 2)
    (block,) = catalogue.of(pid, "origdatablocks")
    listed = {f["path"]: (f["size"], f["chk"]) for f in block["dataFileList"]}
    assert listed == {
        "day/a.h5": (len(data), hashlib.sha256(data).hexdigest()),
        "day/a_roi.h5": (len(roi), hashlib.sha256(roi).hexdigest()),
    }
    (picture,) = catalogue.of(pid, "attachments")
    assert picture["thumbnail"].startswith("data:image/png;base64,")
    assert ran.made[0].metadata["raw data set"].value.endswith(pid.replace("/", "%2F"))
    assert rig.document(key)["copies"][-1]["sha256"] is not None


def test_a_result_is_entered_as_a_derived_data_set_that_names_its_input(rig: Any, catalogue: Catalogue) -> None:
    rig.copied()
    rig.run("catalog_entry")
    rig.run("xpcs_result")
    rig.run("catalog_entry")
    found = catalogue.datasets()
    raw, derived = sorted(found)
    assert found[derived]["type"] == "derived" and found[derived]["inputDatasets"] == [raw]
    assert found[derived]["scientificMetadata"]["tau_s_mean"]["unit"] == "s"
    assert found[derived]["usedSoftware"] == ["stand-in@1"]
    assert rig.document("day/s000.h5")["catalog"][1]["pid"] == derived


def test_entering_a_scan_again_changes_nothing(rig: Any, catalogue: Catalogue) -> None:
    (key,) = rig.copied()
    rig.run("xpcs_result")
    rig.run("catalog_entry")
    before = {pid: (d, catalogue.of(pid, "origdatablocks")) for pid, d in catalogue.datasets().items()}
    rig.ask("catalog_entry", key)
    assert rig.run("catalog_entry").keys == [key]
    assert {pid: (d, catalogue.of(pid, "origdatablocks")) for pid, d in catalogue.datasets().items()} == before
    assert len([t for t in rig.tasks(key) if t.purpose == "describe"]) == 1


def test_every_revision_of_a_result_has_its_own_entry(rig: Any, catalogue: Catalogue) -> None:
    (key,) = rig.copied()
    for run in ("first", "second"):
        rig.ask("xpcs_result", key, run)
        rig.run("xpcs_result")
        rig.run("catalog_entry")
    assert sorted(pid.rpartition("/")[2] for pid, d in catalogue.datasets().items() if d["type"] == "derived") == [
        "r1",
        "r2",
    ]


def test_while_nersc_rests_a_scan_is_entered_without_metadata_and_completed_afterwards(
    rig: Any, catalogue: Catalogue, simulated: tuple[bytes, bytes]
) -> None:
    (key,) = rig.notice(rig.scan("a.h5", *simulated))
    rig.run("raw_at_cfs")
    rig.pace(pause_first_s=60, pause_most_s=60, grace_s=0.2)
    once.pause(rig.ledger, Unavailable("nersc", "the cooling plant"), rig.facilities.pace.patience)
    rig.until(lambda: rig.run("catalog_entry", patient=False) and catalogue.datasets())
    ((pid, entry),) = catalogue.datasets().items()
    assert "photon_energy" not in entry["scientificMetadata"]
    rig.until(
        lambda: rig.run("catalog_entry", patient=False) and "once nersc is back" in rig.step(key, "catalog_entry").why
    )
    step = rig.step(key, "catalog_entry")
    assert step.attempt == 1 and "the cooling plant" in step.why
    calls = rig.sandbox.requests()
    rig.run("catalog_entry", patient=False)
    assert scicat_calls(rig.sandbox.requests()) == scicat_calls(calls), "it is not entered over and over meanwhile"
    once.answered(rig.ledger, "nersc")
    rig.ask("catalog_entry", key)
    assert rig.run("catalog_entry").keys == [key]
    assert catalogue.datasets()[pid]["scientificMetadata"]["photon_energy"]["unit"] == "eV"
    (block,) = catalogue.of(pid, "origdatablocks")
    assert all(file["chk"] for file in block["dataFileList"])


def scicat_calls(requests: dict[str, int]) -> int:
    return sum(n for route, n in requests.items() if route.startswith("scicat"))


def test_an_outage_that_nobody_knew_of_does_not_keep_a_scan_out_of_the_catalogue(
    rig: Any, catalogue: Catalogue
) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("sfapi", "outage", text="unplanned", count=-1)
    rig.until(lambda: rig.run("catalog_entry", patient=False) and catalogue.datasets())
    assert rig.tasks(key, "catalog_entry") == []
    rig.sandbox.box.clear_faults()
    assert rig.run("catalog_entry").keys == [key]


def test_a_truncated_file_is_copied_and_catalogued_with_the_reason_and_its_analysis_fails_alone(
    rig: Any, catalogue: Catalogue, simulated: tuple[bytes, bytes]
) -> None:
    data, roi = simulated
    rig.real_analysis()
    bad, good = rig.notice(rig.scan("bad.h5", data[: len(data) // 2], roi), rig.scan("good.h5", data, roi))
    assert sorted(rig.run("raw_at_cfs").keys) == [bad, good]
    why = rig.run("xpcs_result", [bad]).failed[bad]
    rig.stand_in()
    assert rig.run("xpcs_result").keys == [good]
    assert why.startswith("bad.h5: xpcs_result at nersc in job 33") and "failed (exit 3)" in why
    assert "bad.h5" in why and "What to do: compare the file with the detector's copy" in why
    assert len(rig.tasks(bad, "xpcs_result")) == 1
    assert sorted(rig.run("catalog_entry").keys) == [bad, good]
    entry = next(d for d in catalogue.datasets().values() if d["datasetName"] == "bad.h5")
    assert "bad.h5" in entry["scientificMetadata"]["description_error"]["value"]
    assert rig.document(bad)["state"] == "failed" and rig.document(good)["state"] == "done"


def test_a_scan_that_is_copied_anew_is_described_anew(rig: Any, catalogue: Catalogue, simulated: Any) -> None:
    """What was read of the copy before is not true of this one."""
    data, roi = simulated
    (key,) = rig.notice(rig.scan("a.h5", data, roi))
    rig.run("raw_at_cfs")
    with (rig.cfs / "a.h5").open("r+b") as file:
        file.truncate(len(data) // 2)
    rig.run("catalog_entry")
    assert "description_error" in next(iter(catalogue.datasets().values()))["scientificMetadata"]
    rig.ask("raw_at_cfs", key)
    rig.run("raw_at_cfs")
    assert rig.run("catalog_entry").keys == [key]
    metadata = next(iter(catalogue.datasets().values()))["scientificMetadata"]
    assert "description_error" not in metadata and metadata["photon_energy"]["unit"] == "eV"


def test_a_copy_whose_size_has_changed_becomes_a_question(rig: Any) -> None:
    (key,) = rig.copied()
    with (rig.cfs / key).open("ab") as file:
        file.write(b"bit rot")
    rig.run("catalog_entry")
    document = rig.document(key)
    assert document["state"] == "question"
    assert "day/s000.h5 at cfs has 23 bytes, the scan's file has 16" in document["why"]


def test_a_late_companion_is_added_to_the_file_list(rig: Any, catalogue: Catalogue) -> None:
    (key,) = rig.notice(rig.scan("a.h5", roi=None))
    rig.run("raw_at_cfs")
    rig.run("catalog_entry")
    (rig.dtn / "a_roi.h5").write_bytes(b"roi")
    rig.notice("a.h5")
    rig.run("raw_at_cfs")
    assert rig.run("catalog_entry").keys == [key]
    ((pid, entry),) = catalogue.datasets().items()
    files = [f for block in catalogue.of(pid, "origdatablocks") for f in block["dataFileList"]]
    assert sorted(f["path"] for f in files) == ["a.h5", "a_roi.h5"] and all(f["chk"] for f in files)
    assert entry["numberOfFiles"] == 2


def test_a_refusal_of_the_catalogue_fails_the_scan_in_its_words(rig: Any) -> None:
    (key,) = rig.copied()
    body = {"statusCode": 403, "message": "Forbidden resource"}
    rig.sandbox.fault("scicat", "status", route="POST */datasets", code=403, body=body, count=-1)
    ran = rig.run("catalog_entry")
    assert f"{key}: catalog_entry: scicat said:" in ran.failed[key] and "Forbidden resource" in ran.failed[key]


def test_many_scans_are_described_by_one_job(rig: Any, catalogue: Catalogue) -> None:
    keys = rig.copied(12)
    assert sorted(rig.run("catalog_entry").keys) == keys
    assert len(catalogue.datasets()) == 12
    assert list(rig.sandbox.executions("sfapi").values()) == [1]


def test_a_hold_that_its_run_did_not_survive_is_taken_over_also_to_describe(rig: Any) -> None:
    """Killed while it entered the scan without metadata; when the hold ends, NERSC is back."""
    (key,) = rig.copied()
    from resources.ledger import steps

    now = rig.ledger.now()
    with rig.ledger.write() as tx:
        assert steps.claim(tx, rig.found(key).id, "catalog_entry", now, now)
    assert rig.run("catalog_entry").keys == [key]
