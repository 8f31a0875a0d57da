"""Transfers that cannot work until a person has done something: which scan fails, how often it was tried, and why."""

from __future__ import annotations

from typing import Any

import pytest

LASTING = {
    "quota": ("the quota at the destination is used up", "free space or raise the quota at the destination"),
    "no_space": ("the disk at the destination is full", "free space at the destination"),
    "file_size_changed": ("a file changed its size while it was copied", "the file was still being written"),
    "checksum_mismatch": ("the checksums of source and destination differ", "check the disks of both ends"),
    "file_not_found": ("a file is not at the source", "see whether the file was moved or deleted"),
    "permission_denied": ("an endpoint does not allow access to a path", "give the platform's Globus identity access"),
}
AT_ONCE = ("file_not_found", "permission_denied")  # another attempt would meet the same


@pytest.mark.parametrize("kind", LASTING)
def test_trouble_that_lasts_fails_the_scan_with_its_reason_and_what_to_do(rig: Any, kind: str) -> None:
    keys = rig.noticed(2)
    rig.attempts_allowed(2)
    rig.pace(stall_s=0.3)
    rig.sandbox.fault("transfer", kind, path="*/day/s001.h5", count=-1)
    ran = rig.run("raw_at_cfs", keys)
    assert ran.keys == ["day/s000.h5"] and list(ran.failed) == ["day/s001.h5"]
    reason, advice = LASTING[kind]
    why = ran.failed["day/s001.h5"]
    assert why.startswith("day/s001.h5: copy from bl7011/dtn to bl7011/cfs by Globus task")
    assert reason in why and f"What to do: {advice}" in why
    alone = [t for t in rig.tasks("day/s001.h5") if len({i["source_path"] for i in t.request["items"]}) == 2]
    assert len(alone) <= 1 if kind in AT_ONCE else alone
    assert ("(attempt 2 of 2)" in why) or kind in AT_ONCE
    document = rig.document("day/s001.h5")
    assert document["state"] == "failed" and not document["safe"]
    assert [c for c in document["copies"] if c["place"] == "cfs" and c["verified_at"]] == []


@pytest.mark.parametrize("kind", ["file_not_found", "file_size_changed", "checksum_mismatch"])
def test_one_bad_file_in_a_block_of_fifty_holds_no_other(rig: Any, kind: str) -> None:
    keys = rig.noticed(50)
    rig.attempts_allowed(3)
    rig.pace(stall_s=0.3)
    rig.sandbox.fault("transfer", kind, path="*/day/s031.h5", count=-1)
    ran = rig.run("raw_at_cfs", keys)
    assert sorted(ran.keys) == [key for key in keys if key != "day/s031.h5"]
    assert list(ran.failed) == ["day/s031.h5"] and LASTING[kind][0] in ran.failed["day/s031.h5"]
    submitted = rig.sandbox.requests()["transfer POST /v0.10/transfer"]
    assert submitted <= 4, "isolated in few tasks"
    assert {rig.document(key)["assets"]["raw_at_cfs"]["state"] for key in ran.keys} == {"materialized"}
    assert all(len(rig.tasks(key, "raw_at_cfs")) <= 2 for key in ran.keys), "and nobody else waits for its attempts"


def test_an_endpoint_that_is_down_is_left_to_globus_and_nothing_is_lost(rig: Any, goes_on: Any) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", "endpoint_down", path="*/day/s000.h5", count=2)
    rig.pace(stall_s=30)
    goes_on("raw_at_cfs", key)
