"""A scan from the detector's disk to the catalogue, with real data and the real analysis: the numbers are right."""

from __future__ import annotations

from typing import Any


def test_a_simulated_scan_is_copied_analysed_and_entered(rig: Any, simulated: tuple[bytes, bytes]) -> None:
    data, roi = simulated
    rig.real_analysis()
    (key,) = rig.notice(rig.scan("2026/11/20/a.h5", data, roi))
    made = {asset: rig.run(asset).made for asset in ("raw_at_cfs", "xpcs_result", "catalog_entry")}
    assert all([m.scan.key for m in some] == [key] for some in made.values())
    document = rig.document(key)
    assert document["state"] == "done"
    assert {name: asset["state"] for name, asset in document["assets"].items()} == {
        "raw_at_dtn": "materialized",
        "raw_at_cfs": "materialized",
        "xpcs_result": "materialized",
        "catalog_entry": "materialized",
    }
    assert (rig.cfs / "2026/11/20/a.h5").read_bytes() == data
    values = document["products"][0]["values"]
    truth = {"contrast": 0.25, "tau_s": 0.45}
    assert abs(values["contrast"][0] / truth["contrast"] - 1) < 0.1
    assert abs(values["tau_s"][0] / truth["tau_s"] - 1) < 0.1
    shown = made["xpcs_result"][0].metadata
    assert "data:image/png;base64," in shown["g2 plot"].value
    assert shown["q bins"] == 4 and shown["Slurm job"].startswith("33")
    assert [entry["type"] for entry in document["catalog"]] == ["raw", "derived"]
    assert {t["system"] for t in document["tasks"]} == {"globus", "sfapi"}


def test_running_everything_once_more_changes_nothing(rig: Any) -> None:
    (key,) = rig.copied()
    assets = ("raw_at_cfs", "xpcs_result", "catalog_entry")
    for asset in assets:
        rig.run(asset)
    before, executions = rig.document(key), rig.sandbox.executions("sfapi")
    for asset in assets:
        assert rig.run(asset).keys == [key], "a patient run reports what is there"
        rig.pace(grace_s=0)
        assert rig.run(asset, patient=False).keys == [], "an automatic one does not"
    assert rig.document(key) == before
    assert rig.sandbox.executions("sfapi") == executions
