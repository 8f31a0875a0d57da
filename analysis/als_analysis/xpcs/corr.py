"""Correlate a raw file: frames in, result out, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from als_analysis import __version__
from als_analysis.failure import OutOfMemory, Preempted, QMapError, RawFileError
from als_analysis.memory import INTERPRETER_BYTES, cached_bytes
from als_analysis.readers.frames import FrameSource, Quantity, in_base_unit
from als_analysis.workers import Workers, available_cores
from als_analysis.xpcs.blemishes import without_blemishes
from als_analysis.xpcs.checkpoint import Arrays, Checkpoint
from als_analysis.xpcs.encoded import EncodedRun, FramesFirst
from als_analysis.xpcs.events import (
    BLOCK_MULTIPLE,
    FRAMES_IN_BLOCK,
    EventCorrelator,
    Room,
    TooManyEvents,
    event_blocks,
    is_sparse,
)
from als_analysis.xpcs.fits import Fit, fit_bins
from als_analysis.xpcs.multitau import G2, Correlator
from als_analysis.xpcs.observe import SEGMENTS, Observer
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.precompile import EVENTS, SUMS, precompile
from als_analysis.xpcs.qmap import QMap
from als_analysis.xpcs.result import Multitau, Result, Scattering
from als_analysis.xpcs.state import Lags, Mark, State, lags_for
from als_analysis.xpcs.stream import block_edges, blocks
from als_analysis.xpcs.tiles import Pixels, arrange

if TYPE_CHECKING:
    from als_analysis.readers.blocks import Blocks

FIT_PAIRS = 8  # lags with fewer pairs have noise that all pixels share, which their error does not show
_USUAL_BYTES = 497 << 20  # what the analysis holds beside the interpreter where no limit is given …
_USUAL_BYTES_PER_LANE = 2000  # … or this, for a detector larger than 512 x 512
_MOST_FRAMES, _FEWEST_FRAMES = 256, 16  # in a block

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
    """Correlate the frames of `source` over the bins of `qmap` (multi-tau; two-time maps come at writing).

    Frames are divided by their mean over the used pixels unless `frame_norm` is off (a mean that is not above 0 does
    not divide). A pixel with a value that is not finite in any processed frame is left out, and so is one that the
    detector masks (see `blemishes`), which the result's q-map tells. With `out` and `stop` a run that is told to stop
    leaves a checkpoint beside `out`, from which the next call goes on to the same bits. Raises `QMapError` (another
    shape than the frames', nothing left), `RawFileError`, `MetadataMissing` (no frame time), `BadArguments`,
    `OutOfMemory`, `Preempted`.
    """
    options = options or Options()
    if qmap.shape != source.shape[1:]:
        raise QMapError(f"{source.path}: frames are {source.shape[1:]}, the q-map {qmap.name} is {qmap.shape}")
    qmap, masked = without_blemishes(source, qmap, options)
    if masked:
        print(
            f"als-xpcs: {source.path}: masked by the detector and left out: {masked} of the q-map's pixels (at the "
            f"top of {source.dtype} in every frame looked at)",
            file=sys.stderr,
        )
    metadata, _ = source.metadata()
    frame_time = in_base_unit(metadata, "frame_time", source)
    frames = options.processed(source.shape[0])
    pixels = pixels_of(qmap)
    threads = threads or available_cores()
    if options.kind != "twotime" and options.device != "cuda":
        precompile(SUMS, options, threads)
    with Workers(threads) as workers:

        def through(way: Options, by_pixels: bool = True) -> tuple[_Run | EncodedRun, tuple[G2, list[G2]] | None]:
            run = _run_of(source, way, pixels, frames, workers, by_pixels)
            if out is not None and stop is not None and options.device != "cuda":
                run.checkpoint = Checkpoint(out, identity_of(source, qmap, options) | run.identity)
            return run, run.through(progress, stop)

        way = options
        try:
            try:
                run, found = through(way)
            except TooManyEvents as reason:
                if options.sparse != "auto":
                    raise
                print(f"als-xpcs: {reason}; going over all pixels instead", file=sys.stderr)
                way = replace(options, sparse="never")
                run, found = through(way)
        except FramesFirst as reason:
            if str(reason):
                print(f"als-xpcs: {reason}", file=sys.stderr)
            run, found = through(way, by_pixels=False)
        observer, correlator = run.observer, run.correlator
        alive = run.alive()
        if not alive.any():
            raise RawFileError(f"{source.path}: every used pixel has a frame without a finite value")
        multitau = None if correlator is None or found is None else multitau_of(correlator.lags, run.cuts, *found)
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
        observed=observer.observed(alive, masked),
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


def _run_of(
    source: FrameSource, options: Options, pixels: Pixels, frames: int, workers: Workers, by_pixels: bool
) -> _Run | EncodedRun:
    """How to go over the frames: by pixels where that is possible, and allowed."""
    observer = Observer(source.shape[1:], frames, pixels, min(SEGMENTS, frames), _block_type(source, options))
    correlator: Correlator | None = None
    if options.device == "cuda" and options.kind != "twotime":
        from als_analysis.xpcs.cuda import DeviceCorrelator, TorchBackend

        correlator = DeviceCorrelator(frames, pixels, workers, TorchBackend())
    elif options.kind != "twotime" and is_sparse(source, options, pixels, frames, workers):
        precompile(EVENTS, options, workers.threads)
        words = arrange(pixels.size, pixels.used, pixels.static, pixels.dynamic, windows=True)
        room = Room.of(source, options, words, frames, workers.threads)
        correlator = EventCorrelator(frames, words, workers, observer, room, options.save_g2)
    elif options.kind != "twotime":
        blocks = _blocks_of(source, options, pixels, frames, workers.threads) if by_pixels else None
        if blocks is not None:
            scale = partial(scale_of, options=options)
            return EncodedRun(source, blocks, options, pixels, observer, workers, cuts_of(options, frames), scale)
        correlator = Correlator(frames, pixels, workers)
    return _Run(source, options, correlator, observer, workers)


def _blocks_of(source: FrameSource, options: Options, pixels: Pixels, frames: int, threads: int) -> Blocks | None:
    """The frames as blocks of pixels, where correlating by pixels is possible and does not take too much memory."""
    if options.avg > 1 or options.save_g2 or pixels.gathered is not None:
        return None
    blocks = source.blocks()
    if blocks is None or blocks.encoded_bytes(options.raw_frames(0, frames)) > cached_bytes() // 2:
        return None
    need = INTERPRETER_BYTES + EncodedRun.nbytes(blocks, pixels.tiles, lags_for(frames).levels, threads)
    return blocks if options.memory is None or need <= options.memory else None


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
        self.cuts = cuts_of(options, frames)
        sparse = isinstance(correlator, EventCorrelator)
        multiple = 1
        if sparse:
            multiple = BLOCK_MULTIPLE
            self.cuts = sorted({c // multiple * multiple if c < frames else c for c in self.cuts} - {0})
        block = FRAMES_IN_BLOCK if sparse else _block_frames(source, options, frames, observer.pixels)
        # the observer finds its segments in events by itself, in frames only at the end of a block
        self.edges = block_edges(frames, block, set(self.cuts) if sparse else {*observer.cuts, *self.cuts}, multiple)

    @property
    def identity(self) -> dict[str, Any]:
        """What the sums on the way depend on."""
        return {"edges": self.edges}

    def alive(self) -> NDArray[np.bool_]:
        """Which of the used pixels had a finite value in every frame."""
        if self.correlator is not None:
            return self.correlator.alive()
        return np.asarray(self.observer.known[self.observer.pixels.used] == self.observer.frames)

    def through(self, progress: Progress | None, stop: Callable[[], bool] | None) -> tuple[G2, list[G2]] | None:
        """Take all frames in; gives (g2, error) over all frames, and of each part."""
        begin = self._restore()
        frames = self.observer.frames
        edges = self.edges[self.edges.index(begin) :]
        given = (self.source, self.options, edges, self.workers)
        pixels, cuts = self.observer.pixels, self.observer.cuts
        stream: Any = (
            event_blocks(*given, pixels, cuts)
            if isinstance(self.correlator, EventCorrelator)
            else blocks(*given, pixels.used_bits)
        )
        for start, block in stream:
            self._take(block)
            done = start + len(block)
            if progress is not None:
                progress(done, frames)
            if stop is not None and stop() and done < frames:
                if self.checkpoint is not None:
                    self.checkpoint.save(self._snapshot())
                then = "the same command goes on there" if self.checkpoint is not None else "it starts again"
                raise Preempted(f"{self.source.path}: stopped after frame {done} of {frames}; {then}")
        return self.correlator.finish() if self.correlator is not None else None

    def _take(self, block: Any) -> None:
        correlator = self.correlator
        if isinstance(correlator, EventCorrelator):
            mean = self.observer.add_sums(block.sums, block.full, block.content)
            correlator.add_events(block, scale_of(mean, self.options))
        else:
            mean = self.observer.add(block, self.workers)
            if correlator is None:
                return
            correlator.add(block.raw, scale_of(mean, self.options))
        if self.observer.done in self.cuts:
            correlator.cut(self.observer.done == self.observer.frames)

    def _snapshot(self) -> Arrays:
        arrays = {f"observer_{k}": v for k, v in self.observer.snapshot().items()}
        return arrays | (self.correlator.snapshot() if self.correlator is not None else {})

    def _restore(self) -> int:
        stored = self.checkpoint.load() if self.checkpoint is not None else None
        if stored is None:
            return 0
        self.observer.restore({k.removeprefix("observer_"): v for k, v in stored.items() if k.startswith("observer_")})
        if self.correlator is not None:
            self.correlator.restore(stored)
        return self.observer.done


def cuts_of(options: Options, frames: int) -> list[int]:
    """Where the parts of the frames end that have a g2 of their own."""
    return [frames * i // options.partials for i in range(1, options.partials + 1)]


def scale_of(mean: NDArray[np.float64], options: Options) -> NDArray[np.float32]:
    """What each frame is multiplied by, from its mean over the used pixels."""
    scale = np.ones(len(mean), dtype=np.float32)
    if options.frame_norm:
        np.divide(1.0, mean, out=scale, where=mean > 0, casting="unsafe")
    return scale


def multitau_of(lags: Lags, cuts: list[int], whole: G2, parts: list[G2]) -> Multitau:
    """The result's g2, with that of its parts where there are several."""
    multitau = Multitau(lags, *whole)
    if len(parts) > 1:
        multitau.partial = np.array([part[0] for part in parts])
        multitau.partial_err = np.array([part[1] for part in parts])
        multitau.partial_labels = [f"frames {a} to {b - 1}" for a, b in pairwise([0, *cuts])]
    return multitau


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
