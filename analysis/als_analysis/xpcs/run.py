"""One run of `als-xpcs corr`: from a raw file to a result file, a summary, pictures, and a status on the way."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from als_analysis.atomic import write_json
from als_analysis.failure import BadArguments, Failure, MetadataMissing, Preempted, QMapError
from als_analysis.readers import FrameSource, Layout, open_frames
from als_analysis.readers.roi import read_roi
from als_analysis.workers import Workers, available_cores
from als_analysis.xpcs.binning import qmap_from_roi
from als_analysis.xpcs.checkpoint import Checkpoint
from als_analysis.xpcs.corr import correlate, fit_result, identity_of, pixels_of, summary_of
from als_analysis.xpcs.geometry import geometry_of
from als_analysis.xpcs.kept_maps import KeptMaps
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.progress import Progress, StopSignal
from als_analysis.xpcs.provenance import device_of, sha256_of, software_versions
from als_analysis.xpcs.qc import quality
from als_analysis.xpcs.qmap import QMap, read_qmap
from als_analysis.xpcs.result import refuse_existing, write_result
from als_analysis.xpcs.twotime import two_time


@dataclass(frozen=True)
class Request:
    """What one run is asked for; `sha256` is a digest, "compute" or "none"."""

    raw: Path
    out: Path
    layout: Layout
    options: Options = field(default_factory=Options)
    qmap: Path | None = None
    roi: Path | None = None
    static_bins: int = 10
    label: str = ""
    overwrite: bool = False
    summary: Path | None = None
    plots: Path | None = None
    status: Path | None = None
    sha256: str = "compute"
    threads: int | None = None


def run(request: Request, stop: StopSignal | None = None) -> dict[str, Any]:
    """Do it all; returns the summary document. Raises the failures of every part, having left no half file."""
    refuse_existing(request.out, request.overwrite)
    progress = Progress(request.status)
    progress.note("running", 0, None)
    try:
        summary = _run(request, progress, stop)
    except Preempted as failure:
        progress.note("preempted", message=str(failure))
        raise
    except Failure as failure:
        progress.note("failed", message=str(failure))
        raise
    progress.note("done")
    return summary


def _run(request: Request, progress: Progress, stop: StopSignal | None) -> dict[str, Any]:
    clock = Clock()
    threads = request.threads or available_cores()
    if threads < 1:
        raise BadArguments(f"--threads {threads}: at least 1")
    with ExitStack() as stack:
        source = stack.enter_context(open_frames(request.raw, request.layout))
        digest = _digest(request, stack)
        qmap, origin = qmap_for(source, request.qmap, request.roi, request.static_bins)
        progress.stage("correlate")
        told: Any = (lambda: bool(stop)) if stop is not None else None
        result = correlate(source, qmap, request.options, threads, progress, request.out, told)
        clock.lap("correlate")
        result.fits = fit_result(result)
        clock.lap("fit")
        result.parameters |= {"label": request.label, "layout": request.layout.name, "threads": threads, **origin}
        checks = quality(result)
        maps: Any = ()
        kept: KeptMaps | None = None
        if request.options.kind != "multitau":
            progress.stage("two-time")
            workers = stack.enter_context(Workers(threads))
            numbers = result.dynamic_numbers
            request.out.parent.mkdir(parents=True, exist_ok=True)
            kept = KeptMaps(request.out, identity_of(source, qmap, request.options) | {"threads": threads})
            scratch = request.out.parent
            maps = two_time(
                source, pixels_of(result.qmap), numbers, request.options, workers, scratch, progress, kept.bins, told
            )
        result.provenance = {
            "versions": software_versions(),
            "device": device_of(request.options.device, threads),
            "timings": clock.seconds,
            "input": {"path": str(request.raw), "bytes": request.raw.stat().st_size, "sha256": None},
        }
        if isinstance(digest, str):
            result.provenance["input"]["sha256"] = digest
        elif digest is not None:  # computed beside the analysis: what is left of it is timed apart
            result.provenance["input"]["sha256"], clock.seconds["sha256"] = digest.result()
            clock.lap("sha256_wait")
        write_result(request.out, result, maps, kept)
        clock.lap("write")
    Checkpoint(request.out, {}).remove()
    if kept is not None:
        kept.remove()
    if request.plots is not None:
        from als_analysis.xpcs.plots import plot_summary

        plot_summary(result, request.plots)
        clock.lap("plots")
    summary = summary_of(result, request.out, checks, result.provenance)
    if request.summary is not None:
        write_json(request.summary, summary)
    return summary


def _digest(request: Request, stack: ExitStack) -> str | Future[tuple[str, float]] | None:
    if request.sha256 == "none":
        return None
    if request.sha256 != "compute":
        return request.sha256
    pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sha256"))

    def work() -> tuple[str, float]:
        began = time.perf_counter()
        return sha256_of(request.raw), round(time.perf_counter() - began, 4)

    return pool.submit(work)


def qmap_for(source: FrameSource, qmap: Path | None, roi: Path | None, static_bins: int) -> tuple[QMap, dict[str, Any]]:
    """The q-map to use, from its file or made from the ROI, and where it came from, for the record.

    Without a geometry in the metadata the ROI's bins have no q; a line on stderr says what is missing.
    """
    if qmap is not None:
        return read_qmap(qmap), {"qmap": str(qmap)}
    roi = roi or source.layout.companion(source.path, source.layout.roi_file)
    if roi is None:
        raise BadArguments(f"{source.path}: give --qmap or --roi: layout {source.layout.name} names no ROI file")
    labels = read_roi(roi, source.layout)
    if labels.shape != source.shape[1:]:
        raise QMapError(f"{roi}: {source.layout.roi}: the ROI is {labels.shape}, the frames are {source.shape[1:]}")
    try:
        geometry = geometry_of(source, source.metadata()[0])
    except MetadataMissing as missing:
        geometry = None
        print(f"als-xpcs: no q values: {missing}", file=sys.stderr)
    made = qmap_from_roi(labels, geometry, static_bins, where=f"{roi}: {source.layout.roi}")
    return made, {"roi": str(roi), "static_bins": static_bins}


class Clock:
    """Seconds of each part of the work."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """What passed since the last lap belongs to `name`."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self.seconds["total"] = round(now - self._began, 4)
        self._last = now
