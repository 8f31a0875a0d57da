"""Pixels that the detector masks by its largest number, and that the q-map does not leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from als_analysis.failure import QMapError
from als_analysis.readers import load_layout, open_frames
from als_analysis.xpcs.corr import correlate
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.plots import plot_scattering
from als_analysis.xpcs.qc import quality
from als_analysis.xpcs.qmap import Bins, QMap, write_qmap
from als_analysis.xpcs.result import Result
from als_analysis.xpcs.run import Request, run
from numpy.typing import NDArray

LAYOUT = load_layout({"frames": "/d", "frame_time": {"value": 0.1, "unit": "s"}})
SIDE = 64


def qmap(left_out: NDArray[np.bool_] | None = None) -> QMap:
    static = np.repeat(np.arange(4, dtype=np.uint32) + 1, SIDE // 4)[:, None].repeat(SIDE, axis=1)
    mask = np.ones((SIDE, SIDE), dtype=np.uint8)
    if left_out is not None:
        mask[left_out] = 0
    bins = (Bins(np.ones(4), np.zeros(1), (4, 1)), Bins(np.ones(4), np.zeros(1), (4, 1)))
    return QMap((static + 1) // 2, static, *bins, mask=mask)


def movie(dtype: str, mean: float, frames: int = 200) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    rng = np.random.default_rng(5)
    data = rng.poisson(mean * rng.exponential(size=(frames // 8, SIDE, SIDE)).repeat(8, axis=0)).astype(dtype)
    masked = np.zeros((SIDE, SIDE), dtype=bool)
    masked[20:23], masked[50, ::9] = True, True
    data[:, masked] = np.iinfo(dtype).max
    return data, masked


def result(path: Path, data: NDArray[Any], bins: QMap, how: Any, **options: Any) -> Result:
    with h5py.File(path, "w") as file:
        file.create_dataset("/d", data=data, chunks=(1, SIDE, SIDE), **how)
    with open_frames(path, LAYOUT) as source:
        return correlate(source, bins, Options(**options))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
@pytest.mark.parametrize("mean", [0.01, 3.0])
@pytest.mark.parametrize("how", [hdf5plugin.Bitshuffle(cname="lz4"), {"compression": "gzip"}])
def test_the_answer_is_that_of_a_q_map_that_leaves_them_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str, mean: float, how: Any
) -> None:
    data, masked = movie(dtype, mean)
    told = result(tmp_path / "told.h5", data, qmap(masked), how)
    assert capsys.readouterr().err == ""
    found = result(tmp_path / "found.h5", data, qmap(), how)
    assert f"masked by the detector and left out: {masked.sum()} of the q-map's pixels" in capsys.readouterr().err
    assert found.multitau is not None and told.multitau is not None
    assert found.multitau.partial is not None and told.multitau.partial is not None
    for name in ("g2", "g2_err", "partial", "partial_err"):
        np.testing.assert_array_equal(getattr(found.multitau, name), getattr(told.multitau, name))
    np.testing.assert_array_equal(found.scattering.intensity_vs_time, told.scattering.intensity_vs_time)
    assert found.observed is not None
    assert found.observed.saturated == 0 and found.observed.masked_pixels == masked.mean()
    assert "masked by the detector" in quality(found)["masked_pixels"]["explanation"]
    assert found.qmap.blemish is not None
    np.testing.assert_array_equal(found.qmap.blemish == 0, masked)


def test_a_pixel_that_is_sometimes_saturated_is_counted_and_kept(tmp_path: Path) -> None:
    data, masked = movie("uint16", 3.0)
    data[100:, masked] = 5
    found = result(tmp_path / "f.h5", data, qmap(), hdf5plugin.Bitshuffle(cname="lz4"))
    assert found.qmap.blemish is None and found.observed is not None
    assert found.observed.masked_pixels == 0 and found.observed.saturated == masked.mean() / 2


def test_only_the_frames_that_are_correlated_are_looked_at(tmp_path: Path) -> None:
    data, masked = movie("uint16", 3.0)
    data[:50, masked], data[51::2, masked] = 5, 5
    found = result(tmp_path / "f.h5", data, qmap(), {}, begin=50, stride=2)
    assert found.observed is not None and found.observed.masked_pixels == masked.mean()


def test_a_detector_that_masks_all_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    data = np.full((20, SIDE, SIDE), 65535, dtype=np.uint16)
    with pytest.raises(QMapError, match=r"all\.h5: every used pixel of the q-map"):
        result(tmp_path / "all.h5", data, qmap(), {})


def test_two_time_maps_and_the_written_q_map_leave_them_out(tmp_path: Path) -> None:
    data, masked = movie("uint32", 3.0)
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("/d", data=data, chunks=(1, SIDE, SIDE))
    maps = {}
    for name, bins in (("told", qmap(masked)), ("found", qmap())):
        write_qmap(tmp_path / f"{name}_qmap.h5", bins)
        out = tmp_path / f"{name}.hdf"
        run(Request(tmp_path / "raw.h5", out, LAYOUT, Options(kind="both"), qmap=tmp_path / f"{name}_qmap.h5"))
        with h5py.File(out) as file:
            maps[name] = [file["/xpcs/twotime/correlation_map"][key][()] for key in ("c2_00001", "c2_00002")]
            if name == "found":
                np.testing.assert_array_equal(file["/xpcs/qmap/blemish"][()] == 0, masked)
    np.testing.assert_array_equal(maps["found"], maps["told"])
    assert np.isfinite(maps["found"]).all()


def test_pictures_show_them_grey_and_all_else_in_its_own_range(tmp_path: Path) -> None:
    data, masked = movie("uint32", 3.0)
    known = replace(qmap(), blemish=(~masked).astype(np.uint8))
    harmless = np.where(masked, 3, data).astype(np.uint32)
    cases = {
        "used": (data, qmap()),
        "unused": (data, qmap(masked)),
        "known": (harmless, known),
        "all": (harmless, qmap()),
    }
    for logarithmic in (True, False):
        drawn = {}
        for name, case in cases.items():
            found = result(tmp_path / f"{name}.h5", *case, {})
            drawn[name] = plot_scattering(found, tmp_path / f"{name}.png", logarithmic).read_bytes()
        assert drawn["used"] == drawn["unused"] == drawn["known"] != drawn["all"]
