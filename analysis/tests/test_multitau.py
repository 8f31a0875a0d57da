"""The multi-tau correlator against a plain float64 implementation, and against what must not change its result."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from als_analysis.failure import RawFileError
from als_analysis.readers import load_layout, open_frames
from als_analysis.workers import Workers
from als_analysis.xpcs.corr import correlate, pixels_of
from als_analysis.xpcs.fits import fit_bins, model
from als_analysis.xpcs.multitau import Correlator
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.qmap import Bins, QMap
from als_analysis.xpcs.state import lags_for
from als_analysis.xpcs.tiles import arrange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LAYOUT = load_layout({"frames": "/d", "frame_time": {"value": 0.1, "unit": "s"}})


def direct(
    frames: np.ndarray, static: np.ndarray, dynamic: np.ndarray, normalise: bool = True
) -> dict[str, np.ndarray]:
    """g2, error and maps in float64, lag by lag from the definition; `frames` (N, pixels), bins from 0."""
    x = frames.astype(np.float64)
    if normalise:
        mean = x.mean(axis=1)
        x = x / np.where(mean > 0, mean, 1.0)[:, None]
    delays, g2, error, maps = [], [], [], []
    level = 0
    while len(x) > (0 if level == 0 else 4):
        for step in range(1 if level == 0 else 5, 9):
            if len(x) <= step + (level > 0):
                continue
            delays.append(step << level)
            past_frames = x[:-step]
            product, past, future = (x[:-step] * x[step:]).mean(0), x[:-step].mean(0), x[step:].mean(0)
            maps.append((product, past, future))
            with np.errstate(all="ignore"):
                ratio = np.array(
                    [
                        product[static == s].mean() / (past[static == s].mean() * future[static == s].mean())
                        for s in range(static.max() + 1)
                    ]
                )
                owner = np.array([dynamic[static == s][0] for s in range(static.max() + 1)])
                pixel = product / (past * future)
            rows = [
                (ratio[(owner == d) & np.isfinite(ratio)], pixel[(dynamic == d) & np.isfinite(pixel)])
                for d in range(dynamic.max() + 1)
            ]
            g2.append([a.mean() if len(a) else np.nan for a, _ in rows])
            error.append(
                [b.std(ddof=1) / np.sqrt(len(b)) if len(b) > 1 and len(past_frames) > 1 else np.nan for _, b in rows]
            )
        x = 0.5 * (x[0 : len(x) // 2 * 2 : 2] + x[1::2])
        level += 1
    return {"delay": np.array(delays), "g2": np.array(g2), "error": np.array(error), "maps": np.array(maps)}


def bins_of(used: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    static = (np.arange(len(used)) * 6) // len(used)
    return static, static // 2


def engine(
    frames: np.ndarray,
    used: np.ndarray,
    static: np.ndarray,
    dynamic: np.ndarray,
    edges: list[int],
    threads: int = 2,
    normalise: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    flat = np.ascontiguousarray(frames.reshape(len(frames), -1))
    mean = flat[:, used].astype(np.float64).mean(axis=1)
    scale = np.where(mean > 0, 1.0 / np.where(mean > 0, mean, 1.0), 1.0) if normalise else np.ones(len(flat))
    with Workers(threads) as workers:
        correlator = Correlator(len(flat), arrange(flat.shape[1], used, static, dynamic), workers)
        for a, b in pairwise(edges):
            correlator.add(flat[a:b], scale[a:b].astype(np.float32))
        return correlator.g2()[0]


def speckle(rng: np.random.Generator, frames: int, pixels: int, mean: float = 30.0) -> np.ndarray:
    field = rng.normal(size=(2, pixels))
    out = np.empty((frames, pixels))
    for t in range(frames):
        field = 0.9 * field + np.sqrt(1 - 0.81) * rng.normal(size=(2, pixels))
        out[t] = mean * (field**2).sum(0) / 2
    return rng.poisson(out)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("frames", [2, 3, 9, 64, 251])
def test_it_agrees_with_the_definition_to_1e_6_for_every_type_and_length(dtype: str, frames: int) -> None:
    rng = np.random.default_rng(frames)
    data = speckle(rng, frames, 700).astype(dtype)
    if np.dtype(dtype).kind == "f":
        data -= np.asarray(0.37, dtype=dtype)
    used = np.flatnonzero(rng.random(700) < 0.8)
    static, dynamic = bins_of(used, 700)
    want = direct(data[:, used], static, dynamic)
    g2, error = engine(data, used, static, dynamic, [0, frames])
    assert lags_for(frames).delay.tolist() == want["delay"].tolist()
    np.testing.assert_allclose(g2, want["g2"], rtol=1e-6)
    np.testing.assert_allclose(error, want["error"], rtol=1e-6)


def test_scattered_pixels_and_no_frame_normalisation_agree_with_the_definition_too() -> None:
    rng = np.random.default_rng(5)
    data = speckle(rng, 100, 5000).astype(np.uint16)
    used = np.sort(rng.choice(5000, 150, replace=False))
    static, dynamic = bins_of(used, 5000)
    assert arrange(5000, used, static, dynamic).gathered is not None
    want = direct(data[:, used], static, dynamic, normalise=False)
    g2, error = engine(data, used, static, dynamic, [0, 33, 100], normalise=False)
    np.testing.assert_allclose(g2, want["g2"], rtol=1e-6)
    np.testing.assert_allclose(error, want["error"], rtol=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_cutting_the_frames_into_blocks_of_any_size_changes_nothing(data: st.DataObject) -> None:
    frames = data.draw(st.integers(2, 150))
    cuts = data.draw(st.lists(st.integers(1, frames - 1), max_size=6, unique=True)) if frames > 1 else []
    movie = speckle(np.random.default_rng(1), frames, 200).astype(np.uint16)
    used = np.arange(10, 190)
    static, dynamic = bins_of(used, 200)
    whole = engine(movie, used, static, dynamic, [0, frames])
    cut = engine(movie, used, static, dynamic, [0, *sorted(cuts), frames])
    np.testing.assert_allclose(cut[0], whole[0], rtol=2e-7)
    np.testing.assert_allclose(cut[1], whole[1], rtol=2e-6, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), unused=st.integers(0, 300))
def test_shuffling_pixels_inside_a_bin_and_adding_unused_ones_changes_nothing(seed: int, unused: int) -> None:
    rng = np.random.default_rng(seed)
    movie = speckle(rng, 40, 240).astype(np.uint16)
    used = np.arange(240)
    static, dynamic = bins_of(used, 240)
    want = engine(movie, used, static, dynamic, [0, 40])
    order = np.concatenate([rng.permutation(np.flatnonzero(static == s)) for s in range(6)])
    places = np.sort(rng.choice(240 + unused, 240, replace=False))
    wider = rng.integers(0, 60000, (40, 240 + unused)).astype(np.uint16)
    wider[:, places] = movie[:, order]
    got = engine(wider, places, static, dynamic, [0, 40])
    np.testing.assert_allclose(got[0], want[0], rtol=1e-9)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-7)


def test_the_number_of_threads_does_not_change_a_single_bit() -> None:
    movie = speckle(np.random.default_rng(3), 90, 3000).astype(np.uint16)
    used = np.arange(100, 2900)
    static, dynamic = bins_of(used, 3000)
    one = engine(movie, used, static, dynamic, [0, 50, 90], threads=1)
    for threads in (2, 3, 7):
        many = engine(movie, used, static, dynamic, [0, 50, 90], threads=threads)
        assert np.array_equal(one[0], many[0]) and np.array_equal(one[1], many[1])


FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "gzip+shuffle": {"compression": "gzip", "shuffle": True},
    "lzf": {"compression": "lzf"},
    "bitshuffle-lz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "bitshuffle-zstd": dict(hdf5plugin.Bitshuffle(cname="zstd")),
    "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="none")),
    "lz4": dict(hdf5plugin.LZ4()),
    "fletcher": {"fletcher32": True},
    "blocks": {"chunks": (3, 20, 16), "compression": "gzip"},
    "contiguous": {"chunks": None},
}


def write(path: Path, movie: np.ndarray, **filters: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("/d", data=movie, **({"chunks": (1, *movie.shape[1:])} | filters))
    return path


def small_qmap(shape: tuple[int, int]) -> QMap:
    static = np.zeros(shape, dtype=np.uint32)
    static[2:-2, 3:-3] = 1 + np.arange(shape[0] - 4)[:, None] // 4
    dynamic = np.where(static > 0, 1 + (static - 1) // 2, 0).astype(np.uint32)
    return QMap(
        dynamic,
        static,
        Bins(np.arange(1.0, dynamic.max() + 1), np.zeros(1), (int(dynamic.max()), 1)),
        Bins(np.arange(1.0, static.max() + 1), np.zeros(1), (int(static.max()), 1)),
        np.ones(shape, dtype=np.uint8),
    )


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", ["uint16", ">u2", "float32"])
def test_type_and_compression_of_the_file_do_not_change_the_result(tmp_path: Path, name: str, dtype: str) -> None:
    movie = speckle(np.random.default_rng(2), 30, 20 * 32).reshape(30, 20, 32).astype(dtype)
    path = write(tmp_path / "m.h5", movie, **FILTERS[name])
    with open_frames(path, LAYOUT) as source:
        result = correlate(source, small_qmap((20, 32)), Options(partials=1))
    pixels = pixels_of(small_qmap((20, 32)))
    want = direct(movie.reshape(30, -1)[:, pixels.used], pixels.static, pixels.dynamic)
    assert result.multitau is not None
    np.testing.assert_allclose(result.multitau.g2, want["g2"], rtol=1e-6)
    np.testing.assert_allclose(result.scattering.mean_2d, movie.astype(float).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(result.scattering.intensity_vs_time, movie.reshape(30, -1)[:, pixels.used].mean(axis=1))


def test_pixels_with_nan_are_left_out_wherever_the_nan_is(tmp_path: Path) -> None:
    movie = speckle(np.random.default_rng(2), 37, 20 * 32).reshape(37, 20, 32).astype(np.float32) - 3.5
    keep = np.ones((20, 32), dtype=bool)
    holes = [(5, 5, slice(None)), (8, 9, 0), (9, 9, 36), (10, 20, 17)]
    clean = movie.copy()
    for y, x, when in holes:
        movie[when, y, x] = np.nan
        keep[y, x] = False
    qmap = small_qmap((20, 32))
    with open_frames(write(tmp_path / "nan.h5", movie), LAYOUT) as source:
        result = correlate(source, qmap, Options(frame_norm=False))
    pixels = pixels_of(qmap)
    alive = keep.ravel()[pixels.used]
    want = direct(
        clean.reshape(37, -1)[:, pixels.used][:, alive], pixels.static[alive], pixels.dynamic[alive], normalise=False
    )
    assert result.multitau is not None and result.observed is not None
    np.testing.assert_allclose(result.multitau.g2, want["g2"], rtol=1e-6)
    np.testing.assert_allclose(result.multitau.g2_err, want["error"], rtol=1e-6)
    assert result.observed.masked_pixels == pytest.approx(4 / len(pixels.used))
    assert np.isnan(result.scattering.mean_2d[5, 5]) and np.isfinite(result.scattering.mean_2d[8, 9])


def test_partial_g2_counts_each_pair_in_the_part_of_its_later_sample(tmp_path: Path) -> None:
    movie = speckle(np.random.default_rng(4), 64, 20 * 32).reshape(64, 20, 32).astype(np.uint16)
    qmap = small_qmap((20, 32))
    with open_frames(write(tmp_path / "p.h5", movie), LAYOUT) as source:
        result = correlate(source, qmap, Options(partials=2, frame_norm=False))
    pixels = pixels_of(qmap)
    x = movie.reshape(64, -1)[:, pixels.used].astype(float)
    first = direct(x[:32], pixels.static, pixels.dynamic, normalise=False)
    assert result.multitau is not None and result.multitau.partial is not None
    known = len(first["delay"])
    np.testing.assert_allclose(result.multitau.partial[0][:known], first["g2"], rtol=1e-6)
    late = slice(32, 64)
    for row, step in ((0, 1), (7, 8)):
        a, b = x[late.start - step : 64 - step], x[late]
        ratio = [
            (a * b).mean(0)[pixels.static == s].mean()
            / (a.mean(0)[pixels.static == s].mean() * b.mean(0)[pixels.static == s].mean())
            for s in range(pixels.static.max() + 1)
        ]
        owner = np.array([pixels.dynamic[pixels.static == s][0] for s in range(pixels.static.max() + 1)])
        want = [np.mean(np.array(ratio)[owner == d]) for d in range(pixels.dynamic.max() + 1)]
        np.testing.assert_allclose(result.multitau.partial[1][row], want, rtol=1e-6)


def test_a_part_in_the_middle_counts_only_its_own_pairs(tmp_path: Path) -> None:
    movie = speckle(np.random.default_rng(8), 64, 20 * 32).reshape(64, 20, 32).astype(np.uint16)
    qmap = small_qmap((20, 32))
    with open_frames(write(tmp_path / "p.h5", movie), LAYOUT) as source:
        result = correlate(source, qmap, Options(partials=4, frame_norm=False))
    pixels = pixels_of(qmap)
    x = movie.reshape(64, -1)[:, pixels.used].astype(float)
    assert result.multitau is not None and result.multitau.partial is not None
    for part in (1, 2, 3):
        later = x[16 * part : 16 * (part + 1)]
        for row, step in ((0, 1), (4, 5)):
            earlier = x[16 * part - step : 16 * (part + 1) - step]
            ratio = [
                (earlier * later).mean(0)[pixels.static == s].mean()
                / (earlier.mean(0)[pixels.static == s].mean() * later.mean(0)[pixels.static == s].mean())
                for s in range(pixels.static.max() + 1)
            ]
            owner = np.array([pixels.dynamic[pixels.static == s][0] for s in range(pixels.static.max() + 1)])
            want = [np.mean(np.array(ratio)[owner == d]) for d in range(pixels.dynamic.max() + 1)]
            np.testing.assert_allclose(result.multitau.partial[part][row], want, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_frames_decoded_here_and_by_the_plugin_give_the_same_numbers_and_sums(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(3)
    movie = rng.integers(0, np.iinfo(dtype).max, (21, 48, 96), endpoint=True).astype(dtype)
    movie[::2] %= 7  # most bit rows empty
    movie[5] = 0
    path = write(tmp_path / "d.h5", movie, **FILTERS["bitshuffle-lz4"])
    used = np.flatnonzero(rng.random(48 * 96) < 0.7)
    pixels = arrange(48 * 96, used, used * 0, used * 0)
    with open_frames(path, LAYOUT) as source, Workers(2) as workers:
        out = np.empty((21, 48 * 96), dtype=dtype)
        sums = source.decode(source.fetch(range(21)), out, workers, pixels.used_bits)
        assert np.array_equal(out, movie.reshape(21, -1))
        assert sums is not None, "the fast way was taken"
        whole = movie.reshape(21, -1).astype(np.int64)
        assert np.array_equal(sums.frames, whole[:, used].sum(axis=1))
        assert np.array_equal(sums.pixels, whole.sum(axis=0))
        out[:] = 1
        assert source.decode(source.fetch(range(3, 21, 2)), out[:9], workers) is None
        assert np.array_equal(out[:9], movie[3:21:2].reshape(9, -1))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(21, 31), (100, 101), (48, 96)])
def test_frames_of_any_size_and_type_are_taken_for_sound(tmp_path: Path, dtype: str, shape: tuple[int, int]) -> None:
    movie = np.random.default_rng(1).integers(0, 100, (5, *shape)).astype(dtype)
    path = write(tmp_path / "o.h5", movie, **FILTERS["bitshuffle-lz4"])
    with open_frames(path, LAYOUT) as source, Workers(2) as workers:
        out = np.empty((5, shape[0] * shape[1]), dtype=dtype)
        source.decode(source.fetch(range(5)), out, workers)
        assert np.array_equal(out, movie.reshape(5, -1))


@pytest.mark.parametrize(
    ("at", "damage"),
    [
        (8, (0x7FFFFF00).to_bytes(4, "big")),  # blocks of 2 GB
        (8, (64).to_bytes(4, "big")),  # of half a row
        (0, (1 << 40).to_bytes(8, "big")),  # a frame of a terabyte
        (12, (0x7FFFFFFF).to_bytes(4, "big")),  # a block longer than its chunk
        (16, b"\xff" * 200),  # not LZ4
    ],
)
@pytest.mark.parametrize("frame", [0, 7])
def test_a_damaged_chunk_is_named_whatever_its_header_says(tmp_path: Path, at: int, damage: bytes, frame: int) -> None:
    movie = speckle(np.random.default_rng(9), 12, 96 * 96).reshape(12, 96, 96).astype(np.uint16)
    path = write(tmp_path / "d.h5", movie, **FILTERS["bitshuffle-lz4"])
    with h5py.File(path) as file:
        where = file["/d"].id.get_chunk_info(frame).byte_offset
    content = bytearray(path.read_bytes())
    content[where + at : where + at + len(damage)] = damage
    path.write_bytes(content)
    bits = np.full(96 * 96 // 64, 2**64 - 1, dtype=np.uint64)
    with open_frames(path, LAYOUT) as source, Workers(2) as workers:
        fetched = source.fetch(range(12))
        assert source.events(fetched, np.array([0, 12]), workers, bits) is None
        with pytest.raises(RawFileError, match=f"frame {frame}: corrupted"):
            source.decode(fetched, np.empty((12, 96 * 96), dtype=np.uint16), workers, bits)


def test_begin_end_stride_and_average_choose_the_processed_frames(tmp_path: Path) -> None:
    movie = speckle(np.random.default_rng(6), 80, 20 * 32).reshape(80, 20, 32).astype(np.uint16)
    qmap = small_qmap((20, 32))
    path = write(tmp_path / "s.h5", movie, **FILTERS["bitshuffle-lz4"])
    with open_frames(path, LAYOUT) as source:
        result = correlate(source, qmap, Options(begin=3, end=76, stride=2, avg=3, save_g2=True))
    pixels = pixels_of(qmap)
    chosen = movie[3:76:2][:36].reshape(12, 3, -1).mean(axis=1)[:, pixels.used]
    want = direct(chosen, pixels.static, pixels.dynamic)
    assert result.multitau is not None and result.multitau.maps is not None
    assert len(result.scattering.intensity_vs_time) == 12 and result.lag_time_s == pytest.approx(0.6)
    np.testing.assert_allclose(result.multitau.g2, want["g2"], rtol=1e-6)
    got = result.multitau.maps.reshape(len(want["delay"]), 3, -1)[:, :, pixels.used]
    np.testing.assert_allclose(got, want["maps"], rtol=1e-6)


def test_the_fit_model_is_the_closed_form_of_the_smeared_exponential() -> None:
    lags = lags_for(4000)
    tau = 37.0
    r, m = np.exp(-2.0 / tau), 2.0**lags.level
    smear = (1 - r**m) / (1 - r) * (1 - r**-m) / (1 - 1 / r) / m**2
    np.testing.assert_allclose(model(lags.delay, lags.level, tau), r**lags.delay * smear, rtol=2e-3, atol=1e-6)
    few = lags.level <= 4
    np.testing.assert_allclose(model(lags.delay, lags.level, tau)[few], (r**lags.delay * smear)[few], rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("tau", [1.5, 12.0, 150.0])
def test_fits_find_the_parameters_of_an_exact_curve_from_far_away(tau: float, gamma: float) -> None:
    lags = lags_for(4000)
    curve = 1.002 + 0.17 * model(lags.delay, lags.level, tau, gamma)
    error = np.full((len(lags), 1), 1e-3)
    fit = fit_bins(lags.delay, lags.level, curve[:, None], error, 0.5, stretched=True)
    assert fit.tau_s[0] == pytest.approx(0.5 * tau, rel=1e-5)
    assert fit.gamma[0] == pytest.approx(gamma, rel=1e-5) and fit.contrast[0] == pytest.approx(0.17, rel=1e-5)
    assert fit.chi_squared[0] < 1e-6 and fit.tau_s_err[0] > 0
    if gamma == 1.0:
        simple = fit_bins(lags.delay, lags.level, curve[:, None], error, 0.5)
        assert simple.tau_s[0] == pytest.approx(0.5 * tau, rel=1e-5)


def test_a_flat_curve_or_one_without_errors_gives_no_nonsense() -> None:
    lags = lags_for(500)
    rng = np.random.default_rng(0)
    flat = 1.0 + 1e-3 * rng.normal(size=(len(lags), 2))
    error = np.full((len(lags), 2), 1e-3)
    error[:, 1] = np.nan
    fit = fit_bins(lags.delay, lags.level, flat, error, 1.0)
    assert np.isnan(fit.tau_s[1])
    assert np.isnan(fit.contrast[0]) or abs(fit.contrast[0]) < 5 * fit.contrast_err[0] + 1e-2
