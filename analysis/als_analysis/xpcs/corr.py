"""Correlate a raw file: frames in, result out, in one pass and bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import BadArguments, QMapError, RawFileError
from als_analysis.readers.frames import FrameSource, in_base_unit
from als_analysis.xpcs.fits import Fit, fit_bins
from als_analysis.xpcs.multitau import Correlator, normalize
from als_analysis.xpcs.qmap import QMap
from als_analysis.xpcs.result import Multitau, Result, Scattering

SEGMENTS = 10
FIT_PAIRS = 8  # lags with fewer pairs have noise that all pixels share, which their error does not show
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Options:
    """How to correlate: frames begin, begin + stride, … below end (None: all), means of `avg` of them in a row."""

    begin: int = 0
    end: int | None = None
    stride: int = 1
    avg: int = 1
    frame_norm: bool = True
    save_g2: bool = False

    def processed(self, frames: int) -> int:
        """How many processed frames a file of `frames` gives; raises `BadArguments` if fewer than 2."""
        end = frames if self.end is None else self.end
        if self.begin < 0 or self.stride < 1 or self.avg < 1 or end > frames or end <= self.begin:
            raise BadArguments(
                f"frames {self.begin} to {end}, every {self.stride}, mean of {self.avg}: the file has {frames} frames"
            )
        count = -(-(end - self.begin) // self.stride) // self.avg
        if count < 2:
            raise BadArguments(f"frames {self.begin} to {end} leave {count} processed frames; at least 2 are needed")
        return count


def correlate(source: FrameSource, qmap: QMap, options: Options) -> Result:
    """Correlate the frames of `source` over the bins of `qmap`.

    Frames are divided by their mean over the used pixels unless `frame_norm` is off (a mean that is not above 0 does
    not divide). A pixel with NaN in any processed frame is left out. Raises `QMapError` (another shape than the
    frames', nothing left), `RawFileError`, `MetadataMissing` (no frame time), `BadArguments`.
    """
    if qmap.shape != source.shape[1:]:
        raise QMapError(f"{source.path}: frames are {source.shape[1:]}, the q-map {qmap.name} is {qmap.shape}")
    metadata, _ = source.metadata()
    frame_time = in_base_unit(metadata, "frame_time", source)
    exposure = metadata.get("exposure_time")
    count_time = in_base_unit(metadata, "exposure_time", source) if exposure and exposure["value"] else frame_time
    frames = options.processed(source.shape[0])
    used = qmap.used()
    _, dynamic = np.unique(qmap.dynamic_roi_map.ravel()[used], return_inverse=True)
    static_numbers, static = np.unique(qmap.static_roi_map.ravel()[used], return_inverse=True)

    correlator = Correlator(frames, len(used))
    total = np.zeros(source.shape[1] * source.shape[2])
    known = np.zeros(source.shape[1] * source.shape[2], dtype=np.int64)
    intensity = np.empty(frames)
    segments = np.zeros((min(SEGMENTS, frames), len(used)))
    in_segment = np.zeros(len(segments))
    done = 0
    for block in _processed_blocks(source, options, frames):
        flat = block.reshape(len(block), -1)
        finite = np.isfinite(flat)
        total += np.where(finite, flat, 0.0).sum(axis=0)
        known += finite.sum(axis=0)
        pixels = flat[:, used]
        with np.errstate(invalid="ignore"):
            mean = np.nanmean(pixels, axis=1) if not finite.all() else pixels.mean(axis=1)
        intensity[done : done + len(block)] = mean
        number = (np.arange(done, done + len(block)) * len(segments)) // frames
        for one in np.unique(number):
            segments[one] += pixels[number == one].sum(axis=0)
            in_segment[one] += np.count_nonzero(number == one)
        if options.frame_norm:
            pixels = pixels / np.where(mean > 0, mean, 1.0)[:, None]
        correlator.add(pixels)
        done += len(block)
    sums = correlator.result()
    alive = np.isfinite(sums[1][0])
    if not alive.any():
        raise RawFileError(f"{source.path}: every used pixel has a frame without a value (NaN)")
    if not all(np.isin(np.arange(dynamic.max() + 1), dynamic[alive])):
        raise RawFileError(f"{source.path}: a q bin has no pixel without NaN")
    kept = (sums[0][:, alive], sums[1][:, alive], sums[2][:, alive])
    g2, error = normalize(*kept, static[alive], dynamic[alive])
    with np.errstate(invalid="ignore"):
        mean_2d = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    counts = np.bincount(static[alive], minlength=len(static_numbers))

    def per_static(values: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            sums = np.bincount(static[alive], weights=values[alive], minlength=len(static_numbers))
            return np.asarray(sums / counts)

    scattering = Scattering(
        mean_2d.reshape(source.shape[1:]),
        per_static(segments.sum(axis=0) / frames),
        np.array([per_static(row / n) for row, n in zip(segments, in_segment, strict=True)]),
        intensity,
    )
    start = metadata.get("start_time")
    started = (
        str(start["value"])
        if start and start["value"]
        else datetime.fromtimestamp(source.path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    )
    result = Result(
        raw_path=str(source.path),
        qmap=qmap,
        frame_time_s=frame_time,
        count_time_s=count_time,
        stride=options.stride,
        avg=options.avg,
        scattering=scattering,
        multitau=Multitau(correlator.lags, g2, error),
        metadata=metadata,
        start_time=started,
        parameters=asdict(options),
    )
    if options.save_g2 and result.multitau is not None:
        maps = np.full((len(correlator.lags), 3, total.size), np.nan, dtype=np.float32)
        for row, part in enumerate(sums):
            maps[:, row, used] = part
        result.multitau.maps = maps.reshape(len(correlator.lags), 3, *source.shape[1:])
    return result


def _processed_blocks(source: FrameSource, options: Options, frames: int) -> Iterator[NDArray[np.float64]]:
    """The processed frames in blocks (n, H, W) float64: strided, then averaged."""
    per_frame = source.shape[1] * source.shape[2] * 8 * options.avg
    step = options.stride * options.avg
    block = max(1, _BLOCK_BYTES // per_frame)
    for start in range(0, frames, block):
        stop = min(frames, start + block)
        raw = source.read(
            options.begin + start * step, min(options.begin + stop * step, source.shape[0]), options.stride
        )
        raw = raw[: (stop - start) * options.avg].astype(np.float64)
        yield raw.reshape(stop - start, options.avg, *source.shape[1:]).mean(axis=1) if options.avg > 1 else raw


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
