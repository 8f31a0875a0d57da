"""Correlate a raw file: frames in, result out, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis import __version__
from als_analysis.failure import OutOfMemory, Preempted, QMapError, RawFileError
from als_analysis.memory import INTERPRETER_BYTES
from als_analysis.readers.frames import FrameSource, Quantity, in_base_unit
from als_analysis.workers import Workers, available_cores
from als_analysis.xpcs.checkpoint import Arrays, Checkpoint
from als_analysis.xpcs.events import BLOCK_MULTIPLE, EventCorrelator, event_blocks, is_sparse
from als_analysis.xpcs.fits import Fit, fit_bins
from als_analysis.xpcs.multitau import Correlator, Mark, Pixels, State, arrange, lags_for
from als_analysis.xpcs.observe import Observer
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.qmap import QMap
from als_analysis.xpcs.result import Multitau, Result, Scattering
from als_analysis.xpcs.stream import block_edges, blocks

SEGMENTS = 10
FIT_PAIRS = 8  # lags with fewer pairs have noise that all pixels share, which their error does not show
_USUAL_BYTES = 497 << 20  # what the analysis holds beside the interpreter where no limit is given …
_USUAL_BYTES_PER_LANE = 2000  # … or this, for a detector larger than 512 x 512
_MOST_FRAMES, _FEWEST_FRAMES = 256, 16  # in a block
_MOST_EVENT_FRAMES = 1024  # whose memory is next to nothing

Progress = Callable[[int, int], None]  # processed frames done, of all


def correlate(
    source: FrameSource,
    qmap: QMap,
    options: Options | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    out: Path | None = None,
    stop: Callable[[], bool] | None = None,
) -> Result:
    """Correlate the frames of `source` over the bins of `qmap` in one pass (multi-tau; two-time maps come at writing).

    Frames are divided by their mean over the used pixels unless `frame_norm` is off (a mean that is not above 0 does
    not divide). A pixel with a value that is not finite in any processed frame is left out. With `out` and `stop` a run
    that is told to stop leaves a checkpoint beside `out`, from which the next call goes on to the same bits. Raises
    `QMapError` (another shape than the frames', nothing left), `RawFileError`, `MetadataMissing` (no frame time),
    `BadArguments`, `OutOfMemory`, `Preempted`.
    """
    options = options or Options()
    if qmap.shape != source.shape[1:]:
        raise QMapError(f"{source.path}: frames are {source.shape[1:]}, the q-map {qmap.name} is {qmap.shape}")
    metadata, _ = source.metadata()
    frame_time = in_base_unit(metadata, "frame_time", source)
    frames = options.processed(source.shape[0])
    pixels = pixels_of(qmap)
    with Workers(threads or available_cores()) as workers:
        observer = Observer(source.shape[1:], frames, pixels, min(SEGMENTS, frames), _block_type(source, options))
        correlator: Correlator | None = None
        if options.kind != "twotime":
            correlator = _correlator(source, options, frames, pixels, workers)
        run = _Run(source, options, correlator, observer, workers)
        if out is not None and stop is not None and options.device != "cuda":
            run.checkpoint = Checkpoint(out, identity_of(source, qmap, options) | {"edges": run.edges})
        multitau = run.through(progress, stop)
        alive = correlator.alive() if correlator is not None else observer.known[pixels.used] == frames
        if not alive.any():
            raise RawFileError(f"{source.path}: every used pixel has a frame without a finite value")
        if options.save_g2 and correlator is not None and multitau is not None:
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


def identity_of(source: FrameSource, qmap: QMap, options: Options) -> dict[str, Any]:
    """What must be equal for what a stopped run left behind to be of this one."""
    status = source.path.stat()
    return {
        "raw": str(source.path),
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "qmap": qmap.hash,
        "mask": int(qmap.mask.sum()),
        "options": asdict(options),
        "version": __version__,
        "layout": str(source.layout),
    }


def _correlator(source: FrameSource, options: Options, frames: int, pixels: Pixels, workers: Workers) -> Correlator:
    if options.device == "cuda":
        from als_analysis.xpcs.cuda import DeviceCorrelator, TorchBackend

        return DeviceCorrelator(frames, pixels, workers, TorchBackend())
    if is_sparse(source, options, pixels, frames, workers):
        dense = arrange(pixels.size, pixels.used, pixels.static, pixels.dynamic, dense=True)
        return EventCorrelator(frames, dense, workers, source.dtype)
    return Correlator(frames, pixels, workers)


class _Run:
    """One pass over the frames; all that it knows after a block can be kept and taken up again."""

    def __init__(
        self, source: FrameSource, options: Options, correlator: Correlator | None, observer: Observer, workers: Workers
    ) -> None:
        self.source, self.options, self.correlator, self.observer, self.workers = (
            source,
            options,
            correlator,
            observer,
            workers,
        )
        self.checkpoint: Checkpoint | None = None
        frames = observer.frames
        count = options.partials
        self.cuts = [frames * i // count for i in range(1, count + 1)] if count > 1 else []
        sparse = isinstance(correlator, EventCorrelator)
        block = _block_frames(source, options, frames, observer.pixels)
        block = _MOST_EVENT_FRAMES if sparse else block
        multiple = 1
        if sparse:
            multiple = BLOCK_MULTIPLE
            self.cuts = [c // multiple * multiple if c < frames else c for c in self.cuts]
        # the observer finds its segments in events by itself, in frames only at the end of a block
        self.edges = block_edges(frames, block, set(self.cuts) if sparse else {*observer.cuts, *self.cuts}, multiple)
        self.parts: list[tuple[Any, Any]] = []
        self.mark: Mark | None = None
        self.whole: tuple[Any, Any] = (None, None)

    def through(self, progress: Progress | None, stop: Callable[[], bool] | None) -> Multitau | None:
        """Take all frames in, and give g2 with its parts."""
        begin = self._restore()
        frames = self.observer.frames
        edges = self.edges[self.edges.index(begin) :]
        stream: Any = event_blocks if isinstance(self.correlator, EventCorrelator) else blocks
        for start, block in stream(self.source, self.options, edges, self.workers, self.observer.pixels.used_bits):
            self._take(block)
            done = start + len(block)
            if progress is not None:
                progress(done, frames)
            if stop is not None and stop() and done < frames:
                if self.checkpoint is not None:
                    self.checkpoint.save(self._snapshot())
                then = "the same command goes on there" if self.checkpoint is not None else "it starts again"
                raise Preempted(f"{self.source.path}: stopped after frame {done} of {frames}; {then}")
        if self.correlator is None:
            return None
        if self.observer.done not in self.cuts:
            self.whole, _ = self.correlator.g2()
        multitau = Multitau(self.correlator.lags, *self.whole)
        if self.parts:
            multitau.partial = np.array([part[0] for part in self.parts])
            multitau.partial_err = np.array([part[1] for part in self.parts])
            starts = [0, *self.cuts[:-1]]
            multitau.partial_labels = [f"frames {a} to {b - 1}" for a, b in zip(starts, self.cuts, strict=True)]
        return multitau

    def _take(self, block: Any) -> None:
        correlator = self.correlator
        if isinstance(correlator, EventCorrelator):
            mean = self.observer.add_events(block, correlator.lane, self.workers)
            correlator.add_events(block, self._scale(mean))
        else:
            mean = self.observer.add(block, self.workers)
            if correlator is None:
                return
            correlator.add(block.raw, self._scale(mean))
        if self.observer.done in self.cuts:
            more = self.observer.done < self.observer.frames
            note = (self.mark or correlator.new_mark()) if more else None
            self.whole, part = correlator.g2(self.mark, note)
            self.parts.append(part)
            self.mark = note

    def _scale(self, mean: NDArray[np.float64]) -> NDArray[np.float32]:
        scale = np.ones(len(mean), dtype=np.float32)
        if self.options.frame_norm:
            np.divide(1.0, mean, out=scale, where=mean > 0, casting="unsafe")
        return scale

    def _snapshot(self) -> Arrays:
        arrays = {f"observer_{k}": v for k, v in self.observer.snapshot().items()}
        kept = (("state", self.correlator.state if self.correlator else None, _STATE), ("mark", self.mark, _MARK))
        for name, state, keys in kept:
            if state is not None:
                arrays |= {f"{name}_{key}": getattr(state, key) for key in keys}
                arrays[f"{name}_frames"] = np.array(state.frames)
        if isinstance(self.correlator, EventCorrelator):
            arrays |= {f"events_{key}": value for key, value in self.correlator.memory().items()}
        if self.parts:
            arrays["parts"] = np.array(self.parts)
        return arrays

    def _restore(self) -> int:
        stored = self.checkpoint.load() if self.checkpoint is not None else None
        if stored is None:
            return 0
        self.observer.restore({k.removeprefix("observer_"): v for k, v in stored.items() if k.startswith("observer_")})
        if self.correlator is not None:
            sums, recent, first, total = (stored[f"state_{key}"] for key in _STATE)
            self.correlator.state = State(sums, recent, first, total, int(stored["state_frames"]))
        if isinstance(self.correlator, EventCorrelator):
            self.correlator.remember(
                {k.removeprefix("events_"): v for k, v in stored.items() if k.startswith("events_")}
            )
        if "mark_frames" in stored:
            sums, past, newest, total = (stored[f"mark_{key}"] for key in _MARK)
            self.mark = Mark(sums, past, newest, total, int(stored["mark_frames"]))
        self.parts = [(part[0], part[1]) for part in stored.get("parts", ())]
        return self.observer.done


_STATE = ("sums", "recent", "first", "total")
_MARK = ("sums", "past", "newest", "total")


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


def _block_type(source: FrameSource, options: Options) -> np.dtype[Any]:
    return source.dtype if options.avg == 1 else np.dtype(np.float64 if source.dtype == np.float64 else np.float32)


def _block_frames(source: FrameSource, options: Options, frames: int, pixels: Pixels) -> int:
    """How many processed frames a block may have; raises `OutOfMemory` where not even a short one fits."""
    levels = lags_for(frames).levels
    fixed = State.nbytes(pixels.tiles, levels) + 4 * 8 * pixels.size
    if options.partials > 1:
        fixed += Mark.nbytes(pixels.tiles, levels)
    per_frame = pixels.size * source.dtype.itemsize * options.avg + 2 * source.encoded_frame_bytes() * options.avg
    if options.avg > 1:
        per_frame += pixels.size * _block_type(source, options).itemsize
    if options.memory is None:
        usual = max(_USUAL_BYTES, _USUAL_BYTES_PER_LANE * pixels.tiles * 64)
        # a tenth more for what else grows with the levels: ten times the frames shall not take more memory
        return int(np.clip((usual - 1.1 * fixed) // per_frame, 2 * _FEWEST_FRAMES, _MOST_FRAMES))
    room = options.memory - INTERPRETER_BYTES - fixed
    if room < _FEWEST_FRAMES * per_frame:
        need = options.memory - room + _FEWEST_FRAMES * per_frame
        raise OutOfMemory(
            f"{source.path}: {len(pixels.used)} pixels and {frames} frames need {need >> 20} MiB, "
            f"the limit is {options.memory >> 20} MiB"
        )
    return int(min(room // per_frame, _MOST_FRAMES))


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
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **extra,
    }
