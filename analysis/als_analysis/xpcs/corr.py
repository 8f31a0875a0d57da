"""Correlate a raw file: frames in, result out, in one pass and bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import OutOfMemory, QMapError, RawFileError
from als_analysis.readers.frames import FrameSource, Quantity, in_base_unit
from als_analysis.workers import Workers, available_cores
from als_analysis.xpcs.fits import Fit, fit_bins
from als_analysis.xpcs.multitau import Correlator, Pixels, State, arrange, lags_for
from als_analysis.xpcs.observe import Observer
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.qmap import QMap
from als_analysis.xpcs.result import Multitau, Result, Scattering
from als_analysis.xpcs.stream import block_edges, blocks

SEGMENTS = 10
FIT_PAIRS = 8  # lags with fewer pairs have noise that all pixels share, which their error does not show
_USUAL_BYTES = 700 << 20  # what the analysis holds beside the interpreter where no limit is given
_MOST_FRAMES, _FEWEST_FRAMES = 256, 16  # in a block

Progress = Callable[[int, int], None]  # processed frames done, of all


def correlate(
    source: FrameSource,
    qmap: QMap,
    options: Options | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Correlate the frames of `source` over the bins of `qmap`.

    Frames are divided by their mean over the used pixels unless `frame_norm` is off (a mean that is not above 0 does
    not divide). A pixel with a value that is not finite in any processed frame is left out. Raises `QMapError` (another
    shape than the frames', nothing left), `RawFileError`, `MetadataMissing` (no frame time), `BadArguments`,
    `OutOfMemory`.
    """
    options = options or Options()
    if qmap.shape != source.shape[1:]:
        raise QMapError(f"{source.path}: frames are {source.shape[1:]}, the q-map {qmap.name} is {qmap.shape}")
    metadata, _ = source.metadata()
    frame_time = in_base_unit(metadata, "frame_time", source)
    frames = options.processed(source.shape[0])
    pixels = pixels_of(qmap)
    with Workers(threads or available_cores()) as workers:
        correlator = Correlator(frames, pixels, workers)
        observer = Observer(source.shape[1:], frames, pixels, min(SEGMENTS, frames), _block_type(source, options))
        multitau = _stream(source, options, correlator, observer, workers, progress)
        alive = correlator.alive()
        if not alive.any():
            raise RawFileError(f"{source.path}: every used pixel has a frame without a finite value")
        if options.save_g2:
            multitau.maps = correlator.maps(source.shape[1:])
    mean_2d = observer.mean_2d()
    scattering = Scattering(
        mean_2d, observer.per_static(mean_2d.reshape(-1)[pixels.used]), np.array(observer.segments), observer.mean
    )
    return Result(
        raw_path=str(source.path),
        qmap=qmap,
        frame_time_s=frame_time,
        count_time_s=_exposure(metadata, source, frame_time),
        stride=options.stride,
        avg=options.avg,
        scattering=scattering,
        multitau=multitau,
        metadata=metadata,
        start_time=_start_time(metadata, source),
        parameters=asdict(options),
        observed=observer.observed(alive),
    )


def pixels_of(qmap: QMap) -> Pixels:
    """The used pixels of a q-map, in the order of the frame, with their non-empty bins numbered from 0."""
    used = qmap.used().astype(np.int64)
    return arrange(
        qmap.mask.size,
        used,
        _renumbered(qmap.static_roi_map.ravel()[used]),
        _renumbered(qmap.dynamic_roi_map.ravel()[used]),
    )


def _renumbered(bins: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Bin numbers without gaps, from 0, in their order."""
    number = np.cumsum(np.bincount(bins) > 0) - 1
    return np.asarray(number[bins], dtype=np.int64)


def _stream(
    source: FrameSource,
    options: Options,
    correlator: Correlator,
    observer: Observer,
    workers: Workers,
    progress: Progress | None,
) -> Multitau:
    frames, pixels = observer.frames, observer.pixels
    partial_cuts = [frames * i // options.partials for i in range(1, options.partials + 1)]
    edges = block_edges(frames, _block_frames(source, options, frames, pixels), {*observer.cuts, *partial_cuts})
    parts: list[tuple[Any, Any]] = []
    mark: State | None = None
    for start, raw in blocks(source, options, edges, workers):
        mean = observer.add(raw, workers)
        scale = np.ones(len(raw), dtype=np.float32)
        if options.frame_norm:
            np.divide(1.0, mean, out=scale, where=mean > 0, casting="unsafe")
        correlator.add(raw, scale)
        done = start + len(raw)
        if options.partials > 1 and done in partial_cuts:
            parts.append(correlator.g2(mark))
            mark = correlator.state.mark() if done < frames else None
        if progress is not None:
            progress(done, frames)
    g2, error = correlator.g2()
    multitau = Multitau(correlator.lags, g2, error)
    if parts:
        multitau.partial = np.array([part[0] for part in parts])
        multitau.partial_err = np.array([part[1] for part in parts])
        starts = [0, *partial_cuts[:-1]]
        multitau.partial_labels = [f"frames {a} to {b - 1}" for a, b in zip(starts, partial_cuts, strict=True)]
    return multitau


def _block_type(source: FrameSource, options: Options) -> np.dtype[Any]:
    return source.dtype if options.avg == 1 else np.dtype(np.float64 if source.dtype == np.float64 else np.float32)


def _block_frames(source: FrameSource, options: Options, frames: int, pixels: Pixels) -> int:
    """How many processed frames a block may have; raises `OutOfMemory` where not even a short one fits."""
    states = 2 if options.partials > 1 else 1
    fixed = states * State.nbytes(pixels.tiles, lags_for(frames).levels) + 4 * 8 * pixels.size
    per_frame = pixels.size * source.dtype.itemsize * options.avg + 2 * source.encoded_frame_bytes() * options.avg
    if options.avg > 1:
        per_frame += pixels.size * _block_type(source, options).itemsize
    if options.memory is None:
        return int(np.clip((_USUAL_BYTES - fixed) // per_frame, 2 * _FEWEST_FRAMES, _MOST_FRAMES))
    room = options.memory - _resident_bytes() - fixed
    if room < _FEWEST_FRAMES * per_frame:
        need = options.memory - room + _FEWEST_FRAMES * per_frame
        raise OutOfMemory(
            f"{source.path}: {len(pixels.used)} pixels and {frames} frames need {need >> 20} MiB, "
            f"the limit is {options.memory >> 20} MiB"
        )
    return int(min(room // per_frame, _MOST_FRAMES))


def _resident_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _exposure(metadata: dict[str, Quantity], source: FrameSource, frame_time: float) -> float:
    exposure = metadata.get("exposure_time")
    return in_base_unit(metadata, "exposure_time", source) if exposure and exposure["value"] else frame_time


def _start_time(metadata: dict[str, Quantity], source: FrameSource) -> str:
    start = metadata.get("start_time")
    if start and start["value"]:
        return str(start["value"])
    return datetime.fromtimestamp(source.path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def fit_result(result: Result) -> dict[str, Fit]:
    """Simple and stretched fits of a result's g2, over the lags that have enough pairs of samples."""
    multitau = result.multitau
    if multitau is None:
        return {}
    rows = multitau.lags.pairs >= FIT_PAIRS
    if rows.sum() < 5:
        rows = np.ones(len(rows), dtype=bool)
    arguments = (multitau.lags.delay[rows], multitau.lags.level[rows], multitau.g2[rows], multitau.g2_err[rows])
    return {
        "simple": fit_bins(*arguments, result.lag_time_s),
        "stretched": fit_bins(*arguments, result.lag_time_s, True),
    }


def summary_of(result: Result, out: Path, qc: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The document `als-xpcs-summary/1`: parameters, values per q bin, QC, and what the caller adds (`extra`)."""
    fit = result.fits.get("simple")
    values: dict[str, Any] = {"q_per_angstrom": result.q, "bin": result.dynamic_numbers, "phi_deg": result.phi}
    if fit is not None:
        for name in ("tau_s", "tau_s_err", "contrast", "contrast_err", "baseline", "baseline_err", "chi_squared"):
            values[name] = getattr(fit, name)
    stretched = result.fits.get("stretched")
    return {
        "schema": "als-xpcs-summary/1",
        "parameters": result.parameters,
        "values": values,
        "stretched": {} if stretched is None else {name: getattr(stretched, name) for name in Fit.__dataclass_fields__},
        "qc": qc,
        "frames": len(result.scattering.intensity_vs_time),
        "result": str(out),
        "finished_at": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"),
        **extra,
    }
