"""The two-time correlation against its definition in float64."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from als_analysis.failure import BadArguments
from als_analysis.readers import load_layout, open_frames
from als_analysis.workers import Workers
from als_analysis.xpcs import twotime
from als_analysis.xpcs.corr import pixels_of
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.qmap import Bins, QMap

LAYOUT = load_layout({"frames": "/d", "frame_time": {"value": 0.1, "unit": "s"}})
SHAPE = (24, 30)


def qmap() -> QMap:
    static = np.zeros(SHAPE, dtype=np.uint32)
    static[1:-1, 2:-1] = 1 + np.arange(SHAPE[0] - 2)[:, None] // 3
    dynamic = np.where(static > 0, 1 + (static - 1) // 3, 0).astype(np.uint32)
    return QMap(
        dynamic,
        static,
        Bins(np.arange(3.0), np.zeros(1), (3, 1)),
        Bins(np.arange(8.0), np.zeros(1), (8, 1)),
        np.ones(SHAPE, dtype=np.uint8),
    )


def movie(frames: int, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(7)
    field = rng.normal(size=(2, *SHAPE))
    out = []
    for _ in range(frames):
        field = 0.95 * field + np.sqrt(1 - 0.95**2) * rng.normal(size=field.shape)
        out.append(20 * (field**2).sum(0) + 5)
    return np.array(out).astype(dtype)


def direct(x: np.ndarray, static: np.ndarray, smooth: str, frame_mean: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    if smooth == "sqmap":
        for s in np.unique(static):
            x[:, static == s] /= x[:, static == s].mean(axis=1, keepdims=True)
    elif smooth == "dqmap":
        x /= x.mean(axis=1, keepdims=True)
    else:
        x /= frame_mean[:, None]
    return np.triu(x @ x.T / x.shape[1])


def run(path: Path, options: Options) -> dict[int, twotime.TwoTime]:
    pixels = pixels_of(qmap())
    with open_frames(path, LAYOUT) as source, Workers(2) as workers:
        return {found.bin: found for found in twotime.two_time(source, pixels, np.array([1, 2, 3]), options, workers)}


def write(path: Path, data: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("/d", data=data, chunks=(1, *data.shape[1:]))
    return path


@pytest.mark.parametrize("smooth", ["none", "sqmap", "dqmap"])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_it_agrees_with_the_definition_to_1e_6(tmp_path: Path, smooth: str, dtype: str) -> None:
    data = movie(53, dtype)
    found = run(write(tmp_path / "m.h5", data), Options(smooth=smooth))
    pixels = pixels_of(qmap())
    flat = data.reshape(53, -1)[:, pixels.used]
    assert list(found) == [1, 2, 3]
    for number, got in found.items():
        mine = pixels.dynamic == number - 1
        want = direct(flat[:, mine], pixels.static[mine], smooth, flat.mean(axis=1, dtype=float))
        np.testing.assert_allclose(got.c2, want, rtol=1e-6)
        lags = np.array([np.mean(np.diagonal(want, lag)) for lag in range(53)])
        np.testing.assert_allclose(got.g2, lags, rtol=1e-6)
        assert got.segments.shape == (10, 5)
        third = want[20:30, 20:30]
        np.testing.assert_allclose(
            got.segments[:, 2], [np.mean(np.diagonal(third, lag)) for lag in range(10)], rtol=1e-6
        )


def test_little_memory_small_tiles_and_a_scratch_file_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.h5", movie(100))
    want = run(path, Options())
    monkeypatch.setattr(twotime, "_TILE", 16)
    monkeypatch.setattr(twotime, "_USUAL_BYTES", 2 * 4 * 100 * 80)  # 80 pixels at a time: bins are cut, maps on disk
    got = run(path, Options())
    for number in want:
        np.testing.assert_allclose(got[number].c2, want[number].c2, rtol=2e-6)
        np.testing.assert_allclose(got[number].g2, want[number].g2, rtol=1e-6)


def test_a_pixel_with_nan_is_left_out(tmp_path: Path) -> None:
    data = movie(20)
    clean = data.copy()
    data[7, 5, 5] = np.nan
    found = run(write(tmp_path / "m.h5", data), Options(dq=(1,)))
    pixels = pixels_of(qmap())
    mine = (pixels.dynamic == 0) & (pixels.used != 5 * SHAPE[1] + 5)
    want = direct(clean.reshape(20, -1)[:, pixels.used[mine]], pixels.static[mine], "sqmap", np.ones(20))
    np.testing.assert_allclose(found[1].c2, want, rtol=1e-6)


def test_a_bin_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArguments, match="bin 9 has no pixels"):
        run(write(tmp_path / "m.h5", movie(4)), Options(dq=(1, 9)))
