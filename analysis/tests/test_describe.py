"""als-describe: every scan gets its document, whatever is wrong with it or its neighbours."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from als_analysis import describe
from als_analysis.atomic import written_beside
from als_analysis.xpcs.movie_file import write_movie
from als_analysis.xpcs.simulate import Movie


def _describe(monkeypatch: pytest.MonkeyPatch, request: dict[str, Any]) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    return describe.main([])


def test_a_good_scan_has_metadata_with_units_a_thumbnail_and_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "a b'$(x).h5"
    write_movie(Movie(frames=6, side=32, rings=2), raw)
    roi = raw.with_name("a b'$(x)_roi.h5")
    out = tmp_path / "out"
    assert _describe(monkeypatch, {"scans": [{"id": "s1", "files": [str(roi), str(raw)]}], "out": str(out)}) == 0
    document = json.loads((out / "s1.json").read_text())
    assert document["error"] is None
    assert document["files"][1]["sha256"] == hashlib.sha256(raw.read_bytes()).hexdigest()
    assert document["files"][1]["bytes"] == raw.stat().st_size
    assert document["metadata"]["photon_energy"] == {"value": 778.1, "unit": "eV"}
    assert document["metadata"]["frames"]["value"] == 6
    assert base64.b64decode(document["thumbnail"]).startswith(b"\x89PNG") and len(document["thumbnail"]) <= 20_000


def test_what_is_wrong_with_one_scan_stands_in_its_own_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, cut, other = tmp_path / "good.h5", tmp_path / "cut.h5", tmp_path / "other.h5"
    write_movie(Movie(frames=6, side=32, rings=2), good)
    cut.write_bytes(good.read_bytes()[:-3000])
    with h5py.File(other, "w") as file:
        file["/somewhere/else"] = np.zeros((2, 3, 4))
    scans = [{"id": p.stem, "files": [str(p)]} for p in (cut, tmp_path / "gone.h5", other, good)]
    scans.append({"id": "badlayout", "files": [str(good)], "layout": {"frames": 3}})
    assert _describe(monkeypatch, {"scans": scans, "out": str(tmp_path)}) == 0
    found = {s["id"]: json.loads((tmp_path / f"{s['id']}.json").read_text()) for s in scans}
    assert found["good"]["error"] is None
    assert "cut off" in found["cut"]["error"]["reason"] and found["cut"]["error"]["path"] == str(cut)
    assert found["cut"]["files"][0]["sha256"] == hashlib.sha256(cut.read_bytes()).hexdigest()
    assert "No such file" in found["gone"]["error"]["reason"]
    assert "/entry/data/data" in found["other"]["error"]["reason"]
    assert "/somewhere/else (2, 3, 4) float64" in found["other"]["error"]["reason"]
    assert "frames" in found["badlayout"]["error"]["reason"]


def test_nan_in_metadata_or_frames_becomes_null_or_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "n.h5"
    with h5py.File(raw, "w") as file:
        frames = np.full((3, 300, 500), np.nan, dtype=np.float32)
        frames[:, 10:200, 10:300] = np.random.default_rng(1).normal(0, 5, (3, 190, 290))
        file["/d"] = frames
        file["/t"] = np.nan
    layout = {"frames": "/d", "metadata": {"t": {"path": "/t", "unit": "K"}, "u": {"path": "/u"}}}
    scan = {"id": "n", "files": [str(raw)], "layout": layout}
    assert _describe(monkeypatch, {"scans": [scan], "out": str(tmp_path)}) == 0
    document = json.loads((tmp_path / "n.json").read_text())
    assert document["error"] is None
    assert document["metadata"]["t"] == {"value": None, "unit": "K"}
    assert document["metadata_missing"] == ["u: /u"]
    assert 0 < len(document["thumbnail"]) <= 20_000


def test_a_bad_request_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _describe(monkeypatch, {"scans": [{"id": "../x", "files": ["/a"]}], "out": str(tmp_path)}) == 2
    assert _describe(monkeypatch, {"scans": [], "out": "relative"}) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_writing_fails_half_way_leaves_nothing_behind_and_the_old_one_in_place(tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_text("old")
    with pytest.raises(ValueError, match="half way"), written_beside(target) as beside:
        beside.write_text("half")
        raise ValueError("half way")
    assert [path.name for path in tmp_path.iterdir()] == ["result"] and target.read_text() == "old"
