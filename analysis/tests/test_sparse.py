"""The event path gives what the dense path gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from als_analysis import memory
from als_analysis.failure import BadArguments, OutOfMemory
from als_analysis.readers import load_layout, open_frames
from als_analysis.readers.layout import Layout
from als_analysis.xpcs import corr, events
from als_analysis.xpcs.corr import correlate
from als_analysis.xpcs.movie_file import imm_header
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.qmap import Bins, QMap
from als_analysis.xpcs.result import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

LAYOUT = load_layout({"frames": "/d", "frame_time": {"value": 0.1, "unit": "s"}})


def qmap(shape: tuple[int, int]) -> QMap:
    static = np.zeros(shape, dtype=np.uint32)
    static[1:-1, 1:-2] = 1 + np.arange(shape[0] - 2)[:, None] // 5
    dynamic = np.where(static > 0, 1 + (static - 1) // 2, 0).astype(np.uint32)
    counts = (int(dynamic.max()), int(static.max()))
    return QMap(
        dynamic,
        static,
        Bins(np.arange(counts[0]) + 1.0, np.zeros(1), (counts[0], 1)),
        Bins(np.arange(counts[1]) + 1.0, np.zeros(1), (counts[1], 1)),
        np.ones(shape, dtype=np.uint8),
    )


def write(path: Path, frames: int, mean: float, side: int = 24, seed: int = 0, dtype: str = "uint16") -> Path:
    rng = np.random.default_rng(seed)
    rate = mean * rng.exponential(size=(frames // 8 + 1, side, side)).repeat(8, axis=0)[:frames]
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "/d", data=rng.poisson(rate).astype(dtype), chunks=(1, side, side), **hdf5plugin.Bitshuffle(cname="lz4")
        )
    return path


def both(path: Path, bins: QMap | None = None, layout: Layout = LAYOUT, **options: object) -> tuple[Result, Result]:
    found = []
    for sparse in ("never", "always"):
        with open_frames(path, layout) as source:
            bins = bins or qmap(source.shape[1:])
            found.append(correlate(source, bins, Options(sparse=sparse, **options)))  # type: ignore[arg-type]
    return found[0], found[1]


def assert_same(dense: Result, sparse: Result, partials: bool = True) -> None:
    assert dense.multitau is not None and sparse.multitau is not None
    np.testing.assert_allclose(sparse.multitau.g2, dense.multitau.g2, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(sparse.multitau.g2_err, dense.multitau.g2_err, rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(sparse.scattering.mean_2d, dense.scattering.mean_2d, rtol=1e-12)
    np.testing.assert_allclose(sparse.scattering.segments_1d, dense.scattering.segments_1d, rtol=1e-12)
    assert sparse.observed.drift_pixels == pytest.approx(dense.observed.drift_pixels, abs=1e-9)
    np.testing.assert_allclose(sparse.scattering.intensity_vs_time, dense.scattering.intensity_vs_time, rtol=1e-12)
    if partials and dense.multitau.partial is not None and sparse.multitau.partial is not None:
        np.testing.assert_allclose(sparse.multitau.partial, dense.multitau.partial, rtol=1e-6, atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(
    frames=st.integers(256, 700),
    mean=st.sampled_from([0.003, 0.05, 0.5]),
    block=st.integers(16, 300),
    norm=st.booleans(),
    most=st.sampled_from([0, 500, 5000, 1 << 20]),
)
def test_any_number_of_frames_occupancy_and_block_size_gives_the_dense_answer(
    tmp_path_factory: pytest.TempPathFactory, frames: int, mean: float, block: int, norm: bool, most: int
) -> None:
    path = write(tmp_path_factory.mktemp("s") / "s.h5", frames, mean, seed=frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("als_analysis.xpcs.corr.FRAMES_IN_BLOCK", block)
        patch.setattr("als_analysis.xpcs.events.MOST_KEPT", most)  # events, before they go into a state of all pixels
        dense, sparse = both(path, frame_norm=norm, partials=1)
    assert_same(dense, sparse)


@pytest.mark.parametrize("most", [0, 3000, 1 << 20])
def test_the_parts_agree_where_they_are_cut_at_a_multiple_of_16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("als_analysis.xpcs.events.MOST_KEPT", most)
    monkeypatch.setattr("als_analysis.xpcs.corr.FRAMES_IN_BLOCK", 64)
    dense, sparse = both(write(tmp_path / "s.h5", 512, 0.05), partials=2)
    assert_same(dense, sparse)


def test_begin_end_and_stride_hold_for_events_too(tmp_path: Path) -> None:
    dense, sparse = both(write(tmp_path / "s.h5", 1000, 0.05, dtype="uint8"), begin=7, end=990, stride=3, partials=1)
    assert_same(dense, sparse)


def test_the_path_is_chosen_by_what_the_frames_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(
        events.EventCorrelator,
        "add_events",
        lambda self, e, s, real=events.EventCorrelator.add_events: (taken.append(len(e)), real(self, e, s))[1],
    )
    for mean, expected in ((0.01, True), (0.3, False)):
        taken.clear()
        with open_frames(write(tmp_path / f"{mean}.h5", 300, mean), LAYOUT) as source:
            correlate(source, qmap(source.shape[1:]), Options())
        assert bool(taken) is expected


def test_events_are_refused_for_data_that_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", 300, 1.0, dtype="float32")
    with open_frames(path, LAYOUT) as source, pytest.raises(BadArguments, match="whole numbers"):
        correlate(source, qmap(source.shape[1:]), Options(sparse="always"))


def test_the_maps_of_every_pixel_are_those_of_the_dense_path(tmp_path: Path) -> None:
    dense, sparse = both(write(tmp_path / "s.h5", 300, 0.05), save_g2=True)
    assert dense.multitau is not None and sparse.multitau is not None
    np.testing.assert_allclose(sparse.multitau.maps, dense.multitau.maps, rtol=1e-5, atol=1e-6)


def speckles(frames: int, side: int, dtype: str) -> NDArray[Any]:
    """Few photons, but for a bright pixel, a masked one at its top, and negative numbers where the type has some."""
    rng = np.random.default_rng(side)
    data = rng.poisson(0.04 * rng.exponential(size=(frames // 8, side, side)).repeat(8, axis=0))
    data[:, 7, 9] = rng.integers(1, min(np.iinfo(dtype).max, 200), len(data))
    data[:, 0, 3] = min(np.iinfo(dtype).max, 2**40)
    if np.dtype(dtype).kind == "i":
        data[::3, 5, 6], data[::5, 11, 12] = -1, -50
    data[11] = data[10]
    return data.astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "side"), [("uint8", 24), ("uint16", 25), ("uint32", 24), ("int16", 24), ("int32", 25), ("int64", 24)]
)
@pytest.mark.parametrize("filters", ["bitshuffle", "gzip"])
def test_counts_of_any_size_and_sign_and_frames_of_any_shape_give_the_dense_answer(
    tmp_path: Path, dtype: str, side: int, filters: str
) -> None:
    how = hdf5plugin.Bitshuffle(cname="lz4") if filters == "bitshuffle" else {"compression": "gzip"}
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("/d", data=speckles(512, side, dtype), chunks=(1, side, side), **how)
    dense, sparse = both(tmp_path / "s.h5")
    assert_same(dense, sparse)
    assert sparse.observed.repeated_frames == dense.observed.repeated_frames == 1 / 512
    assert sparse.observed.saturated == 0


@pytest.mark.parametrize("filters", [hdf5plugin.Bitshuffle(cname="lz4"), {"compression": "gzip"}])
@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int16"])
def test_used_pixels_at_the_top_of_their_range_are_counted(tmp_path: Path, filters: Any, dtype: str) -> None:
    data = speckles(304, 24, dtype)
    data[5, 12:14, 5:8] = np.iinfo(dtype).max
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("/d", data=data, chunks=(1, 24, 24), **filters)
    _, sparse = both(tmp_path / "s.h5")
    assert sparse.observed.saturated == pytest.approx(6 / 304 / qmap((24, 24)).used().size)


def test_pixels_scattered_over_the_frame_give_the_dense_answer(tmp_path: Path) -> None:
    bins = qmap((24, 24))
    few = np.random.default_rng(5).random((24, 24)) < 0.1
    few[7, 9] = True
    mask = replace(bins, static_roi_map=bins.static_roi_map * few, dynamic_roi_map=bins.dynamic_roi_map * few)
    assert_same(*both(write(tmp_path / "s.h5", 512, 0.05), mask))


def test_sparse_imm_gives_the_answer_of_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "s.imm"
    frames = speckles(512, 24, "uint16")
    with path.open("wb") as file:
        for number, frame in enumerate(frames.reshape(len(frames), -1)):
            at = np.random.default_rng(number).permutation(np.flatnonzero(frame))
            file.write(imm_header(24, 24, len(at), True, number, 0.1 * number, 0.1))
            file.write(at.astype("<i4").tobytes() + frame[at].astype("<u2").tobytes())
    layout = load_layout({"reader": "imm", "frame_time": {"value": 0.1, "unit": "s"}})
    dense, sparse = both(path, layout=layout)
    assert_same(dense, sparse)
    assert sparse.observed.repeated_frames == 1 / 512


def test_a_number_beyond_the_range_of_its_sums_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5", 300, 0.05, dtype="uint64")
    with open_frames(path, LAYOUT) as source, pytest.raises(BadArguments, match="uint64"):
        correlate(source, qmap(source.shape[1:]), Options(sparse="always"))


def test_a_memory_limit_holds_for_events_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With much memory there may be a state of all pixels, with less only events, with little other ways, or none."""
    path, bins = write(tmp_path / "s.h5", 1000, 0.05, side=96), qmap((96, 96))
    free, rooms = memory.INTERPRETER_BYTES, []
    monkeypatch.setattr(events, "FRAMES_IN_BLOCK", 32)
    monkeypatch.setattr(corr, "FRAMES_IN_BLOCK", 32)
    real = events.Room.of
    monkeypatch.setattr(events.Room, "of", lambda *a: rooms.append(real(*a)) or rooms[-1])

    def run(more: int, sparse: str = "always") -> Result:
        with open_frames(path, LAYOUT) as source:
            return correlate(source, bins, Options(sparse=sparse, memory=free + more), threads=1)

    whole, kept = run(100 << 20), run(16 << 20)
    assert [room.whole_state for room in rooms] == [True, False]
    assert_same(whole, kept)
    with pytest.raises(OutOfMemory, match=r"s\.h5: the events of \d+ pixels and 1000 frames need \d+ MiB"):
        run(1 << 20)
    monkeypatch.setattr(events.Room, "of", lambda *a: replace(real(*a), codes=100_000))
    with pytest.raises(OutOfMemory, match=r"s\.h5: the events of \d+ of 1000 frames take all .* MiB more"):
        run(16 << 20)
    monkeypatch.setattr(events, "MOST_OCCUPIED", 0.1)
    dense = run(100 << 20, "never")
    capsys.readouterr()
    assert_same(run(16 << 20, "auto"), dense)
    told = capsys.readouterr().err
    assert "the events of" in told and told.endswith("MiB more are needed; going over all pixels instead\n")
    with pytest.raises(OutOfMemory, match=r"s\.h5: \d+ pixels and 1000 frames need \d+ MiB"):
        run(1 << 20, "auto")
