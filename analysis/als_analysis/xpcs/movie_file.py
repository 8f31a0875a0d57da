"""How a simulated movie becomes files: the 7.0.1.1 layout, or 8-ID's HDF5 and IMM, dense and sparse."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.atomic import write_json, written_beside
from als_analysis.failure import BadArguments, OutputError, OutputExists
from als_analysis.readers.imm import HEADER
from als_analysis.xpcs.simulate import PIECE, Movie, frames_of

FORMATS = ("als_7011", "aps_8idi", "imm", "imm-sparse")
Append = Callable[[int, NDArray[Any]], None]  # first frame, frames (n, H, W)


def write_movie(
    movie: Movie,
    out: Path,
    roi_out: Path | None = None,
    truth_out: Path | None = None,
    over_seconds: float = 0.0,
    overwrite: bool = False,
    form: str = "als_7011",
) -> dict[str, Any]:
    """Write the stack to `out` as a detector would, growing under its final name, over at least `over_seconds`.

    8-ID's formats have their metadata in `<stem>_metadata.hdf`. The ROI (`<stem>_roi.h5` unless given) comes last, as
    the beamline exports it when the scan has ended. Returns the truth document. Raises `BadArguments`, `OutputError`,
    `OutputExists`.
    """
    import h5py

    movie = movie.checked()
    if form not in FORMATS:
        raise BadArguments(f"--format {form}: expected one of {', '.join(FORMATS)}")
    if form.startswith("imm") and movie.dtype != "uint16":
        raise BadArguments(f"--dtype {movie.dtype}: IMM files hold uint16")
    roi_out = roi_out if roi_out is not None else out.with_name(f"{out.stem}_roi.h5")
    if out.exists() and not overwrite:
        raise OutputExists(f"{out}: exists already; --overwrite replaces it")
    pieces = -(-movie.frames // PIECE)
    began = time.monotonic()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _imm(out, movie, form == "imm-sparse") if form.startswith("imm") else _hdf5(out, movie, form) as append:
            done = 0
            for number, piece in enumerate(frames_of(movie), start=1):
                append(done, piece)
                done += len(piece)
                if over_seconds > 0:
                    time.sleep(max(0.0, began + over_seconds * number / pieces - time.monotonic()))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error}") from error
    if form != "als_7011":
        with written_beside(out.with_name(f"{out.stem}_metadata.hdf")) as beside, h5py.File(beside, "w") as file:
            _write_8id_metadata(file, movie)
    with written_beside(roi_out) as beside, h5py.File(beside, "w") as file:
        file.create_dataset("/roi/labels", data=movie.roi(), compression="gzip")
    truth = movie.truth() | {"path": str(out), "roi": str(roi_out)}
    if truth_out is not None:
        write_json(truth_out, truth)
    return truth


@contextmanager
def _hdf5(out: Path, movie: Movie, form: str) -> Iterator[Append]:
    import h5py
    import hdf5plugin

    with h5py.File(out, "w") as file:
        data = file.create_dataset(
            "/entry/data/data",
            shape=(movie.frames, movie.side, movie.side),
            dtype=movie.dtype,
            chunks=(1, movie.side, movie.side),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )
        if form == "als_7011":
            _write_metadata(file, movie)

        def append(first: int, piece: NDArray[Any]) -> None:
            data[first : first + len(piece)] = piece
            file.flush()

        yield append


@contextmanager
def _imm(out: Path, movie: Movie, sparse: bool) -> Iterator[Append]:
    with out.open("wb") as file:

        def append(first: int, piece: NDArray[Any]) -> None:
            for row, frame in enumerate(piece):
                flat = frame.ravel()
                at = np.flatnonzero(flat) if sparse else np.arange(flat.size)
                elapsed = (first + row) * movie.frame_time_s
                file.write(
                    imm_header(movie.side, movie.side, len(at), sparse, first + row, elapsed, movie.frame_time_s)
                )
                if sparse:
                    file.write(at.astype("<i4").tobytes())
                file.write(flat[at].astype("<u2").tobytes())
            file.flush()

        yield append


def imm_header(
    rows: int, columns: int, length: int, sparse: bool, number: int, elapsed_s: float, preset_s: float
) -> bytes:
    """The 1024 bytes before a frame of an IMM file; offsets in `readers.imm`."""
    header = bytearray(HEADER)
    struct.pack_into("<ii", header, 0, 2, 6 if sparse else 0)
    struct.pack_into("<4i", header, 84, 0, rows - 1, 0, columns - 1)
    struct.pack_into("<3i", header, 108, rows, columns, 2)
    struct.pack_into("<dd", header, 128, elapsed_s, preset_s)
    struct.pack_into("<I", header, 152, length)
    struct.pack_into("<ii", header, 160, number, number)
    struct.pack_into("<i", header, 616, 11)
    return bytes(header)


def _write_8id_metadata(file: Any, movie: Movie) -> None:
    geometry = movie.geometry
    detector = "/entry/instrument/detector_1"
    for path, value, unit in (
        ("/entry/instrument/incident_beam/incident_energy", geometry.photon_energy_ev / 1e3, "keV"),
        (f"{detector}/frame_time", movie.frame_time_s, "s"),
        (f"{detector}/count_time", movie.frame_time_s * 0.9, "s"),
        (f"{detector}/distance", geometry.distance_m, "m"),
        (f"{detector}/x_pixel_size", geometry.pixel_x_m, "m"),
        (f"{detector}/y_pixel_size", geometry.pixel_y_m, "m"),
        (f"{detector}/beam_center_x", geometry.center_x, "pixel"),
        (f"{detector}/beam_center_y", geometry.center_y, "pixel"),
    ):
        file.create_dataset(path, data=value).attrs["units"] = unit
    file["/entry/start_time"] = "2026-01-15T10:00:00-06:00"


def _write_metadata(file: Any, movie: Movie) -> None:
    rng = np.random.default_rng([movie.seed, 7011])
    geometry = movie.geometry

    def put(path: str, value: Any, units: str | None = None) -> None:
        dataset = file.create_dataset(path, data=value)
        if units is not None:
            dataset.attrs["units"] = units

    file.attrs["creator"] = "als-xpcs simulate"
    file["/entry"].attrs["NX_class"] = "NXentry"
    put("/entry/title", f"simulated speckle movie, seed {movie.seed}")
    put("/entry/start_time", "2026-01-15T10:00:00-08:00")
    put("/entry/experiment_identifier", "ALS-00000")
    put("/entry/user/name", "simulated operator")
    put("/entry/sample/name", "Co/Pt multilayer (simulated)")
    put("/entry/sample/temperature", round(295.0 + rng.normal(0, 0.05), 3), "K")
    put("/entry/sample/magnetic_field", 0.12, "T")
    put("/entry/labview/Beamline Energy", geometry.photon_energy_ev, "eV")
    put("/entry/labview/EPU Polarization", 90.0, "deg")
    put("/entry/labview/Beam Current", round(500.0 + rng.normal(0, 0.2), 2), "mA")
    put("/entry/labview/I0 BL", round(1.23 + rng.normal(0, 0.01), 4), "V")
    put("/entry/labview/Sample X", round(rng.uniform(-1, 1), 4), "mm")
    put("/entry/labview/Sample Y", round(rng.uniform(-1, 1), 4), "mm")
    put("/entry/labview/Sample Z", round(rng.uniform(-1, 1), 4), "mm")
    put("/entry/labview/Detector Theta", 0.0, "deg")
    put("/entry/instrument/detector/frame_time", movie.frame_time_s, "s")
    put("/entry/instrument/detector/count_time", movie.frame_time_s * 0.9, "s")
    put("/entry/instrument/detector/distance", geometry.distance_m, "m")
    put("/entry/instrument/detector/x_pixel_size", geometry.pixel_x_m, "m")
    put("/entry/instrument/detector/y_pixel_size", geometry.pixel_y_m, "m")
    put("/entry/instrument/detector/beam_center_x", geometry.center_x, "pixel")
    put("/entry/instrument/detector/beam_center_y", geometry.center_y, "pixel")
