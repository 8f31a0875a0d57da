"""Pixels before frames: the answer of the other order, from any cut of the file, with any number of threads."""

from __future__ import annotations

import gc
import time
import tracemalloc
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from als_analysis import memory
from als_analysis.failure import Preempted, RawFileError
from als_analysis.readers import blocks, load_layout, open_frames, unshuffle
from als_analysis.xpcs import corr, encoded
from als_analysis.xpcs.corr import correlate
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.qmap import Bins, QMap
from als_analysis.xpcs.result import Result
from hypothesis import given, settings
from hypothesis import strategies as st

LAYOUT = load_layout({"frames": "/d", "frame_time": {"value": 0.1, "unit": "s"}})
SIDE = 96  # two blocks of 4096 pixels and a smaller one


def qmap() -> QMap:
    y, x = np.indices((SIDE, SIDE)) - SIDE / 2
    static = (1 + np.hypot(x, y) // 6).astype(np.uint32)
    static[:, 40:44] = 0
    static[static > 9] = 0
    dynamic = (static + 2) // 3
    bins = [Bins(np.arange(n) + 1.0, np.zeros(1), (n, 1)) for n in (int(dynamic.max()), int(static.max()))]
    return QMap(dynamic, static, *bins, np.ones((SIDE, SIDE), dtype=np.uint8))


def write(
    path: Path, frames: int, dtype: str = "uint16", mean: float = 30.0, cname: str = "lz4", bright: bool = False
) -> Path:
    rng = np.random.default_rng(frames)
    data = rng.poisson(mean * rng.exponential(size=(frames // 3 + 1, SIDE, SIDE)).repeat(3, axis=0)[:frames])
    data = np.minimum(data, np.iinfo(dtype).max).astype(dtype)
    if frames > 20:
        data[11] = data[10]
    if bright:
        data[7, 20:30, 20:30] = np.iinfo(dtype).max
    with h5py.File(path, "w") as file:
        file.create_dataset("/d", data=data, chunks=(1, SIDE, SIDE), **hdf5plugin.Bitshuffle(cname=cname))
    return path


def result(path: Path, threads: int = 2, **options: Any) -> Result:
    with open_frames(path, LAYOUT) as source:
        return correlate(source, qmap(), Options(sparse="never", **options), threads)


def by_frames(path: Path, **options: Any) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corr, "_blocks_of", lambda *a: None)
        return result(path, **options)


def small_pieces(patch: pytest.MonkeyPatch, piece: int, fetched: int) -> None:
    patch.setattr(encoded, "_PIECE_BYTES", piece)
    patch.setattr(encoded, "_PART_BYTES", piece)
    patch.setattr(encoded, "_FETCHED_BYTES", fetched)


def ran(patch: pytest.MonkeyPatch) -> list[int]:
    """Which runs were by pixels: their numbers of blocks."""
    found: list[int] = []
    real = encoded.EncodedRun.through

    def through(self: Any, *a: Any) -> Any:
        found.append(self.blocks.count)
        return real(self, *a)

    patch.setattr(encoded.EncodedRun, "through", through)
    return found


@settings(max_examples=12, deadline=None)
@given(
    frames=st.integers(2, 700),
    dtype=st.sampled_from(["uint8", "uint16", "uint32"]),
    piece=st.sampled_from([3_000, 100_000, 1 << 24]),
    fetched=st.sampled_from([1, 50_000, 1 << 24]),
    begin=st.integers(0, 5),
    stride=st.sampled_from([1, 1, 2, 3]),
    partials=st.integers(1, 3),
    norm=st.booleans(),
)
def test_it_gives_the_answer_of_frames_before_pixels(
    tmp_path_factory: pytest.TempPathFactory, frames: int, dtype: str, piece: int, fetched: int, begin: int,
    stride: int, partials: int, norm: bool,
) -> None:  # fmt: skip
    options = {"begin": begin, "stride": stride, "partials": partials, "frame_norm": norm}
    path = write(tmp_path_factory.mktemp("p") / "p.h5", frames * stride + begin + 3, dtype)
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch, piece, fetched)
        taken = ran(patch)
        found = result(path, **options)
    assert taken == [-(-SIDE * SIDE // (8192 // np.dtype(dtype).itemsize))]
    want = by_frames(path, **options)
    assert found.multitau is not None and want.multitau is not None
    for name in ("g2", "g2_err", "partial", "partial_err"):
        one, other = getattr(found.multitau, name), getattr(want.multitau, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-9, err_msg=name)
    assert found.multitau.partial_labels == want.multitau.partial_labels
    for name in ("mean_2d", "mean_1d", "segments_1d", "intensity_vs_time"):
        one, other = getattr(found.scattering, name), getattr(want.scattering, name)
        np.testing.assert_allclose(one, other, rtol=1e-12, err_msg=name)
    for name in ("empty_frames", "repeated_frames", "dead_pixels", "hot_pixels", "masked_pixels", "drift_pixels"):
        assert getattr(found.observed, name) == pytest.approx(getattr(want.observed, name), abs=1e-9), name


def test_repeated_frames_and_saturated_values_are_seen(tmp_path: Path) -> None:
    found = result(write(tmp_path / "p.h5", 90, bright=True)).observed
    used = (qmap().static_roi_map > 0)[20:30, 20:30].sum() / qmap().used().size
    assert found.repeated_frames == 1 / 90 and found.saturated == pytest.approx(used / 90)


def same_bits(one: Result, other: Result) -> bool:
    assert one.multitau is not None and other.multitau is not None
    pairs = [(getattr(one.multitau, n), getattr(other.multitau, n)) for n in ("g2", "g2_err", "partial", "partial_err")]
    pairs += [(getattr(one.scattering, n), getattr(other.scattering, n)) for n in ("mean_2d", "mean_1d", "segments_1d")]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs) and one.observed == other.observed


@pytest.mark.parametrize("mean", [30.0, 0.01])
def test_the_number_of_threads_changes_no_bit(tmp_path: Path, mean: float) -> None:
    path = write(tmp_path / "p.h5", 300, mean=mean)
    found = []
    for threads in (1, 2, 5):
        with open_frames(path, LAYOUT) as source:
            found.append(correlate(source, qmap(), Options(sparse="never" if mean > 1 else "always"), threads))
    assert same_bits(found[0], found[1]) and same_bits(found[0], found[2])


@pytest.mark.parametrize("after", [1, 4, 8, 9])
def test_stopped_in_either_pass_it_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    path, out = write(tmp_path / "p.h5", 300), tmp_path / "r.hdf"
    small_pieces(monkeypatch, 1 << 20, 300_000)
    whole = result(path)
    asked = count(1)
    with open_frames(path, LAYOUT) as source, pytest.raises(Preempted, match=r"stopped after frame .* goes on there"):
        correlate(source, qmap(), Options(), 1, None, out, lambda: next(asked) >= after)
    told: list[int] = []
    with open_frames(path, LAYOUT) as source:
        found = correlate(source, qmap(), Options(), 2, lambda done, of: told.append(done), out, lambda: False)
    assert same_bits(whole, found)
    assert len(told) == len(set(told)) and told[-1] == 300 and (after == 1 or told[0] > 40)


def test_a_damaged_chunk_is_named_as_in_the_other_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "p.h5", 60)
    with h5py.File(path) as file:
        info = file["/d"].id.get_chunk_info(33)
    with path.open("r+b") as raw:
        raw.seek(info.byte_offset + 12)
        raw.write(b"\xff\xff\xff\xff")
    taken = ran(monkeypatch)
    with pytest.raises(RawFileError, match="frame 33: corrupted"):
        result(path)
    assert taken == [3]


def test_where_pieces_come_slowly_frames_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on file systems that keep nothing in the page cache of a compute node."""
    path, taken, asked = write(tmp_path / "p.h5", 60), ran(monkeypatch), []
    real = blocks.Blocks.read

    def slowly(self: Any, *a: Any) -> Any:
        asked.append(time.sleep(0.25))
        return real(self, *a)

    monkeypatch.setattr(blocks.Blocks, "read", slowly)
    found = result(path, threads=1)
    assert len(taken) == 1 and len(asked) == 1
    assert "p.h5" in (said := capsys.readouterr().err) and "going over the frames instead" in said
    assert same_bits(found, by_frames(path))


def test_what_is_compiled_first_is_not_taken_for_slow_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, taken = write(tmp_path / "p.h5", 60), ran(monkeypatch)
    real, calls = unshuffle.read_at, count()

    def compiled_first(*a: Any) -> Any:
        if next(calls) == 0:
            time.sleep(0.5)
        return real(*a)

    monkeypatch.setattr(unshuffle, "read_at", compiled_first)
    monkeypatch.setattr(
        corr, "_run_of", lambda *a, real=corr._run_of: real(*a) if a[-1] else pytest.fail("frames first")
    )
    result(path, threads=1)
    assert taken == [3] and next(calls) > 2


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "p.h5", 60)
    real = encoded.EncodedRun._add_blocks

    def cut_off(self: Any, went_on: Any) -> Any:
        with path.open("r+b") as raw:
            raw.truncate(20_000)
        return real(self, went_on)

    monkeypatch.setattr(encoded.EncodedRun, "_add_blocks", cut_off)
    with pytest.raises(RawFileError, match=r"p.h5: frame .*: cut off while it was read"):
        result(path)


def test_frames_come_first_where_the_file_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, taken = write(tmp_path / "p.h5", 60), ran(monkeypatch)
    result(path)
    assert len(taken) == 1
    result(path, memory=256 << 20)
    result(path, save_g2=True)
    result(write(tmp_path / "z.h5", 60, cname="zstd"))
    monkeypatch.setattr(corr, "cached_bytes", lambda: 2 * path.stat().st_size // 3)
    result(path)
    assert len(taken) == 1


def test_the_page_cache_is_what_nobody_uses_within_the_batch_systems_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory.cached_bytes() > 1 << 20
    for root, file, line in (("", "memory.max", "0::/job/step"), ("memory", "memory.limit_in_bytes", "4:memory:/job")):
        group = tmp_path / root / "job"
        group.mkdir(parents=True, exist_ok=True)
        (group / file).write_text("123456\n")
        (tmp_path / "cgroup").write_text(f"7:cpu:/\n{line}\n")
        monkeypatch.setattr(memory, "_GROUPS", (tmp_path / "cgroup", tmp_path))
        assert memory.cached_bytes() == 123456
        (group / file).write_text("max\n")
        assert memory.cached_bytes() > 1 << 20


def test_an_analysis_leaves_nothing_behind_in_memory(tmp_path: Path) -> None:
    """Not even until Python looks for cycles, while the next analysis takes its own memory."""
    side = 256
    rows = np.arange(side, dtype=np.uint32)[:, None].repeat(side, axis=1)
    bins = Bins(np.ones(side), np.zeros(1), (side, 1))
    wide = QMap(rows // 32 + 1, rows + 1, bins, bins, np.ones((side, side), dtype=np.uint8))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset(
            "/d", data=np.full((20, side, side), 3, "u2"), chunks=(1, side, side), **hdf5plugin.Bitshuffle(cname="lz4")
        )

    def analyse() -> None:
        with open_frames(tmp_path / "w.h5", LAYOUT) as source:
            correlate(source, wide, Options(), threads=1)

    analyse()  # what is loaded once
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        analyse()
        assert tracemalloc.get_traced_memory()[0] < 8 * side * side  # one number for each pixel
    finally:
        tracemalloc.stop()
        gc.enable()
