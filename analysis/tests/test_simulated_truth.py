"""What the simulator put in, the correlator finds again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from als_analysis.xpcs.cli import main


@pytest.mark.parametrize("seed", range(10))
def test_the_demo_size_gives_back_contrast_and_tau_within_5_percent_for_every_seed(tmp_path: Path, seed: int) -> None:
    raw, out = tmp_path / "scan.h5", tmp_path / "out"
    assert main(["simulate", str(raw), "--truth", str(tmp_path / "t.json"), "--seed", str(seed)]) == 0
    assert 3e6 < raw.stat().st_size < 8e6
    assert main(["corr", str(raw), "--out", str(out / "r.hdf"), "--summary", str(out / "summary.json")]) == 0
    truth = json.loads((tmp_path / "t.json").read_text())["values"]
    summary = json.loads((out / "summary.json").read_text())
    for name in ("contrast", "tau_s", "q_per_angstrom"):
        assert np.allclose(summary["values"][name], truth[name], rtol=0.05, atol=0), name
    assert all(np.abs(np.array(summary["values"]["baseline"]) - 1.0) < 0.01)
    assert {check["verdict"] for check in summary["qc"].values()} == {"pass"}
