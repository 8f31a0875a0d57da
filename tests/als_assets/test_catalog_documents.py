"""Catalogue documents from facts: what they say, and that the catalogue takes them as they are."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from als_assets import catalog_documents as documents
from als_assets.catalog_documents import CopyFacts, FileFacts, RawFacts, ResultFacts
from resources.scicat import SciCat
from sandbox import scicat_validation as backend

PACIFIC = timezone(timedelta(hours=-8))
NOON = datetime(2026, 2, 14, 12, 0, 0, 123456, tzinfo=PACIFIC)
RAW = RawFacts(
    beamline="bl7011",
    beamline_name="7.0.1.1",
    facility_path="/LBNL/ALS/7.0.1.1",
    technique="XPCS",
    key="2026/02/s 1.h5",
    short_hash="0f3c5a",
    principal_investigator="Unknown PI",
    owner="Unknown owner",
    contact_email="beamline@als.test",
    owner_group="7.0.1.1",
    access_groups=("ALS-12345", "7.0.1.1", "ALS-12345"),
    source_folder="/dtn/7011",
    created=NOON,
    files=(FileFacts("b.h5", 24, NOON), FileFacts("a.h5", 1000, NOON, "ab" * 32)),
    metadata={"energy": {"value": 850.0, "unit": "eV"}, "Camera.Gain": 2, "drift": math.nan, "title": "gel"},
    copies=(CopyFacts("nersc-cfs", "/global/cfs/x", NOON), CopyFacts("dtn", "/dtn/7011")),
)
RESULT = ResultFacts(
    analysis="xpcs",
    label="",
    revision=2,
    source_folder="/global/cfs/x/xpcs",
    created=NOON,
    parameters={"dpl": 4, "nothing": math.inf, "bins": np.array([1, 2])},
    values={"contrast": [0.2, math.nan, 0.4], "tau_s": [np.float64(1.5), None, 2.5]},
    units={"tau_s": "s"},
    q=[0.001, 0.002, 0.003],
    metadata={"baseline": 1.0002},
    software={"als-analysis": "0.1.0"},
)


def accepted(document: Mapping[str, Any]) -> bool:
    json.dumps(document, allow_nan=False)
    return not backend.dataset_errors(document, backend.rules_of_dataset(document["type"], new=True))


def test_the_backend_accepts_both_documents_with_nothing_missing_or_unknown() -> None:
    assert accepted(documents.raw_dataset(RAW))
    assert accepted(documents.raw_dataset(replace(RAW, proposal="ALS-12345", started=NOON, sample="S1")))
    assert accepted(documents.derived_dataset(RAW, RESULT))


def test_the_same_facts_give_the_same_document() -> None:
    assert documents.raw_dataset(RAW) == documents.raw_dataset(replace(RAW))
    assert documents.derived_dataset(RAW, RESULT) == documents.derived_dataset(replace(RAW), replace(RESULT))


def test_pids_come_from_beamline_hash_analysis_label_and_revision() -> None:
    assert documents.raw_dataset(RAW)["pid"] == "als/bl7011/0f3c5a"
    assert documents.derived_dataset(RAW, RESULT)["pid"] == "als/bl7011/0f3c5a/xpcs/standard/r2"
    assert documents.derived_dataset(RAW, RESULT)["inputDatasets"] == ["als/bl7011/0f3c5a"]


def test_a_label_that_a_pid_cannot_hold_still_gives_a_pid_of_its_own() -> None:
    pids = [documents.derived_pid("bl7011", "0f3c5a", "xpcs", label, 1) for label in ("q map", "q/map", "q-map", "…")]
    assert len(set(pids)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9._/-]+", pid) and pid.count("/") == 5 for pid in pids)


def test_sizes_and_life_cycle_are_left_to_the_backend() -> None:
    for document in (documents.raw_dataset(RAW), documents.derived_dataset(RAW, RESULT)):
        assert not {"size", "numberOfFiles", "packedSize", "datasetlifecycle"} & set(document)


def test_times_are_utc_with_z_and_local_time_without_a_zone_is_refused() -> None:
    assert documents.raw_dataset(RAW)["creationTime"] == "2026-02-14T20:00:00.123Z"
    with pytest.raises(ValueError, match="no time zone"):
        documents.raw_dataset(replace(RAW, created=datetime(2026, 2, 14)))


def test_conventions_of_als_are_kept() -> None:
    document = documents.raw_dataset(RAW)
    assert document["creationLocation"] == "/LBNL/ALS/7.0.1.1"
    assert document["keywords"] == ["XPCS", "ALS", "7.0.1.1"]
    assert (document["ownerGroup"], document["accessGroups"]) == ("7.0.1.1", ["ALS-12345"])


def test_an_unknown_proposal_is_left_out_and_a_known_one_is_named() -> None:
    assert "proposalId" not in documents.raw_dataset(RAW)
    assert documents.raw_dataset(replace(RAW, proposal="ALS-12345"))["proposalId"] == "ALS-12345"


def test_nobody_is_named_who_was_not_passed_in() -> None:
    document = documents.raw_dataset(RAW)
    named = (document["owner"], document["principalInvestigator"], document["contactEmail"])
    assert named == ("Unknown owner", "Unknown PI", "beamline@als.test")


def test_metadata_are_flat_entries_with_units() -> None:
    metadata = documents.raw_dataset(RAW)["scientificMetadata"]
    assert metadata["energy"] == {"value": 850.0, "unit": "eV"}
    assert metadata["Camera_Gain"] == {"value": 2, "unit": ""}
    assert metadata["title"] == {"value": "gel", "unit": ""}
    assert all(set(entry) == {"value", "unit"} for entry in metadata.values())


def test_where_the_copies_are_is_in_the_metadata() -> None:
    metadata = documents.raw_dataset(RAW)["scientificMetadata"]
    assert metadata["copy_nersc-cfs"]["value"] == "/global/cfs/x"
    assert metadata["copy_nersc-cfs_verified_at"]["value"] == "2026-02-14T20:00:00.123Z"
    assert "copy_dtn_verified_at" not in metadata


def test_a_number_that_is_not_finite_is_named_not_stored() -> None:
    metadata = documents.raw_dataset(RAW)["scientificMetadata"]
    assert "drift" not in metadata
    assert metadata["not_finite"]["value"] == "drift"


def test_a_result_has_its_numbers_per_q_and_their_summary_with_units() -> None:
    document = documents.derived_dataset(RAW, RESULT)
    metadata = document["scientificMetadata"]
    assert metadata["contrast_mean"]["value"] == pytest.approx(0.3)
    assert metadata["tau_s_min"] == {"value": 1.5, "unit": "s"}
    assert metadata["tau_s_q003"] == {"value": 2.5, "unit": "s"}
    assert metadata["q_q002"] == {"value": 0.002, "unit": "1/angstrom"}
    assert metadata["not_finite"]["value"] == "contrast_q002, tau_s_q002"
    assert document["usedSoftware"] == ["als-analysis@0.1.0"]
    assert document["jobParameters"] == {"dpl": 4, "nothing": None, "bins": [1, 2]}


def test_files_are_listed_by_path_with_checksums_where_they_are_known() -> None:
    block = documents.origdatablock(RAW.files)
    assert [f["path"] for f in block["dataFileList"]] == ["a.h5", "b.h5"]
    assert "chk" not in block["dataFileList"][1]
    assert (block["size"], block["chkAlg"]) == (1024, "sha256")
    assert backend.sentences(block, backend.ORIGDATABLOCK) == []


def test_a_picture_becomes_a_data_address() -> None:
    picture = documents.attachment("g2", b"\x89PNG", "7.0.1.1")
    assert picture["thumbnail"] == "data:image/png;base64,iVBORw=="
    assert backend.sentences(picture, backend.NEW_ATTACHMENT) == []


def test_created_in_utc_or_elsewhere_is_the_same_moment() -> None:
    assert documents.utc(NOON) == documents.utc(NOON.astimezone(UTC))


def test_documents_that_are_entered_twice_are_unchanged_the_second_time(
    sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALS_SCICAT_USERNAME", sandbox.credentials()["scicat"]["username"])
    monkeypatch.setenv("ALS_SCICAT_PASSWORD", sandbox.credentials()["scicat"]["password"])
    scicat = SciCat(base_url=f"{sandbox.url}/scicat/api/v3", frontend_url=f"{sandbox.url}/scicat")
    for document in (documents.raw_dataset(RAW), documents.derived_dataset(RAW, RESULT)):
        assert [scicat.upsert_dataset(document) for _ in range(2)] == ["created", "unchanged"]
    pid = documents.raw_pid("bl7011", "0f3c5a")
    assert [scicat.ensure_origdatablock(pid, documents.file_list(RAW.files)) for _ in range(2)] == [
        "created",
        "unchanged",
    ]
