"""IMM files, dense and sparse, what is said about broken ones, and the chunk index of HDF5 files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from als_analysis.failure import BadArguments, RawFileError
from als_analysis.readers import load_layout, open_frames
from als_analysis.readers.hdf5 import Hdf5Frames
from als_analysis.readers.layout import layout_for
from als_analysis.workers import Workers
from als_analysis.xpcs.movie_file import imm_header, write_movie
from als_analysis.xpcs.simulate import Movie, frames_of

MOVIE = Movie(frames=20, side=32, rings=2, photons=0.3, dtype="uint16")


@pytest.mark.parametrize("form", ["imm", "imm-sparse"])
def test_both_kinds_of_imm_give_the_frames_that_were_written(tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.imm"
    write_movie(MOVIE, path, form=form)
    want = np.concatenate(list(frames_of(MOVIE)))
    with open_frames(path, layout_for(path, None)) as source, Workers(2) as workers:
        assert source.shape == (20, 32, 32)
        assert np.array_equal(source.read(3, 19, 4), want[3:19:4])
        out = np.empty((10, 32 * 32), dtype=np.uint16)
        source.decode(source.fetch(range(10)), out, workers)
        assert np.array_equal(out, want[:10].reshape(10, -1))
        assert source.metadata()[0]["frame_time"] == {"value": 0.05, "unit": "s"}


def test_dense_imm_counts_above_32767_do_not_become_negative(tmp_path: Path) -> None:
    path = tmp_path / "m.imm"
    frame = np.array([[1, 40000], [65535, 2]], dtype="<u2")
    path.write_bytes(imm_header(2, 2, 4, False, 0, 0.0, 0.1) + frame.tobytes())
    with open_frames(path, load_layout("imm")) as source:
        assert source.read(0, 1)[0].tolist() == frame.tolist()


def test_sparse_imm_keeps_counts_after_all_indices_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "m.imm"
    path.write_bytes(
        imm_header(2, 3, 2, True, 0, 0.0, 0.1) + np.array([5, 1], "<i4").tobytes() + np.array([7, 9], "<i2").tobytes()
    )
    with open_frames(path, load_layout("imm")) as source, Workers(1) as workers:
        assert source.read(0, 1)[0].tolist() == [[0, 9, 0], [0, 0, 7]]
        used = np.full(1, 0b100010, dtype=np.uint64)
        events = source.events(source.fetch(range(1)), np.array([0, 1]), workers, used)
        assert events is not None and events.codes.tolist() == [9 << 11 | 1, 7 << 11 | 5]
        assert events.sums.tolist() == [16] and events.lengths.tolist() == [[2]]


def test_a_sparse_imm_with_a_pixel_twice_or_beyond_its_frame_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.imm"
    for pixels, said in (([3, 1, 3], "has pixel 3 twice"), ([0, 6], "beyond"), ([0, 2**31 - 1, -(2**31)], "beyond")):
        header = imm_header(2, 3, len(pixels), True, 0, 0.0, 0.1)
        path.write_bytes(header + np.array(pixels, "<i4").tobytes() + bytes(2 * len(pixels)))
        with open_frames(path, load_layout("imm")) as source, pytest.raises(RawFileError, match=said):
            source.read(0, 1)


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (lambda b: b[:-10], "frame 1: cut off"),
        (lambda b: b[:1030], "frame 0: cut off"),
        (lambda b: b[:500], "cut off"),
        (lambda b: b"", "empty"),
        (lambda b: bytes(4096), "no IMM file"),
        (lambda b: b[: 1024 + 8] + imm_header(3, 3, 9, False, 1, 0, 0) + bytes(18), "does not fit"),
    ],
)
def test_a_broken_imm_is_named_with_its_frame(tmp_path: Path, spoiled: object, said: str) -> None:
    path = tmp_path / "m.imm"
    whole = b"".join(imm_header(2, 2, 4, False, n, 0.0, 0.1) + bytes(8) for n in range(2))
    path.write_bytes(spoiled(whole))  # type: ignore[operator]
    with pytest.raises(RawFileError, match=said):
        open_frames(path, load_layout("imm"))


@pytest.mark.parametrize(
    "document",
    [
        {"reader": "tiff"},
        {"frames": 3},
        {"roi_file": "../x.h5"},
        {"metadata": {"a": {"unit": "K"}}},
        {"unknown": 1},
    ],
)
def test_a_layout_that_is_wrong_is_refused_with_the_field(document: dict[str, object]) -> None:
    with pytest.raises(BadArguments, match=next(iter(document))):
        load_layout(document)


def test_the_index_of_many_chunks_does_not_stay_in_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        data = file.create_dataset("/d", shape=(5000, 8, 8), dtype="u2", chunks=(1, 8, 8), compression="gzip")
        data[:] = 1
    with Hdf5Frames(tmp_path / "s.h5", load_layout({"frames": "/d"})) as source:
        source.fetch(range(2))
        assert source.file.id.get_mdc_size()[2] < 100_000  # of nodes, as they are in the file
        assert source.read(4000, 4001).max() == 1
