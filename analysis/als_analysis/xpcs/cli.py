"""als-xpcs: correlate, make q-maps, simulate. One verb per job; `als-xpcs VERB --help` shows an example of each."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from als_analysis.failure import OK, BadArguments, run_command

EXITS = """exit codes: 0 done; 2 bad arguments; 3 raw file unreadable or cut off; 4 q-map or ROI unusable;
5 output exists; 6 metadata missing; 7 not enough memory; 8 output cannot be written; 75 preempted (run it again)"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="als-xpcs", description="X-ray photon correlation spectroscopy.", epilog=EXITS
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example: {example}\n\n{EXITS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    corr = verb("corr", "correlate a raw file", "als-xpcs corr scan.h5 --out out.hdf --summary summary.json --plots .")
    corr.add_argument("raw", type=Path)
    corr.add_argument("--out", type=Path, required=True, help="the result file (HDF5)")
    _binning_arguments(corr)
    corr.add_argument("--label", default="", help="names this product when a scan is analysed more than one way")
    corr.add_argument("--overwrite", action="store_true", help="replace an existing result")
    corr.add_argument("--summary", type=Path, help="write the numbers and the QC there as JSON")
    corr.add_argument("--plots", type=Path, metavar="DIR", help="write g2.png and scattering.png there")
    corr.add_argument("--begin", type=int, default=0, help="first frame, from 0")
    corr.add_argument("--end", type=int, help="frame to stop before (default: all)")
    corr.add_argument("--stride", type=int, default=1, help="take every n-th frame")
    corr.add_argument("--avg", type=int, default=1, help="average n frames in a row")
    corr.add_argument("--type", choices=("multitau", "twotime", "both"), default="multitau")
    corr.add_argument("--dq", default="", help="dynamic bins of the two-time maps, such as 1,2,5-7 (default: all)")
    corr.add_argument("--smooth", choices=("none", "sqmap", "dqmap"), default="sqmap", help="two-time normalisation")
    corr.add_argument("--partials", type=int, default=2, help="cut the frames into so many parts with a g2 each")
    corr.add_argument("--threads", type=int, help="default: the cores that this process may use")
    corr.add_argument("--memory", metavar="LIMIT", help="most memory to take, such as 2G")
    corr.add_argument("--no-frame-norm", action="store_true", help="do not divide each frame by its mean")
    corr.add_argument(
        "--save-G2", dest="save_g2", action="store_true", help="store the per-pixel G2, IP, IF maps as well"
    )
    corr.add_argument(
        "--sha256", metavar="HEX", help="digest of the raw file, recorded; 'compute' reads the file for it"
    )

    qmap = verb("qmap", "make a q-map file", "als-xpcs qmap --raw scan.h5 --roi scan_roi.h5 --out qmap.h5")
    qmap.add_argument("--raw", type=Path, required=True, help="a raw file with the geometry in its metadata")
    qmap.add_argument("--out", type=Path, required=True)
    _binning_arguments(qmap)
    qmap.add_argument("--overwrite", action="store_true")

    simulate = verb(
        "simulate", "write a speckle movie with a known answer", "als-xpcs simulate scan.h5 --truth t.json --seed 1"
    )
    simulate.add_argument("out", type=Path)
    simulate.add_argument("--roi-out", type=Path, help="default: <stem>_roi.h5 beside")
    simulate.add_argument("--truth", type=Path, help="write the known answer there as JSON")
    simulate.add_argument("--size", choices=("tiny", "small", "large"), default="tiny")
    simulate.add_argument("--frames", type=int, help="instead of the size's own number")
    simulate.add_argument("--side", type=int, help="height and width in pixels, instead of the size's own")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--dtype", default="float32")
    simulate.add_argument("--contrast", type=float, default=0.25)
    simulate.add_argument("--q", type=int, default=4, dest="rings", help="number of q rings (dynamic bins)")
    simulate.add_argument("--tau", type=float, default=9.0, help="correlation time of the innermost ring, in frames")
    simulate.add_argument("--frame-time", type=float, default=0.05, help="seconds")
    simulate.add_argument("--photons", type=float, default=100.0, help="mean photons per pixel and frame")
    simulate.add_argument("--over-seconds", type=float, default=0.0, help="write in pieces, as slowly as this")
    simulate.add_argument("--overwrite", action="store_true")
    return parser


def _binning_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--qmap", type=Path, help="a q-map file")
    which.add_argument("--roi", type=Path, help="an ROI label image; default: the layout's, beside the raw file")
    parser.add_argument("--layout", default=None, help="layout: a shipped name, a file, or JSON (default als_7011)")
    parser.add_argument("--static-bins", type=int, default=10, help="static bins per dynamic bin when made from an ROI")


def _corr(arguments: argparse.Namespace) -> int:
    clock = _Clock()
    from als_analysis.atomic import write_json
    from als_analysis.readers import load_layout, open_frames
    from als_analysis.workers import available_cores
    from als_analysis.xpcs.corr import correlate, fit_result, summary_of
    from als_analysis.xpcs.options import Options, parse_bins, parse_bytes
    from als_analysis.xpcs.provenance import cpu_device, sha256_of, software_versions
    from als_analysis.xpcs.qc import quality
    from als_analysis.xpcs.result import refuse_existing, write_result

    clock.lap("imports")
    refuse_existing(arguments.out, arguments.overwrite)
    options = Options(
        kind=arguments.type,
        begin=arguments.begin,
        end=arguments.end,
        stride=arguments.stride,
        avg=arguments.avg,
        dq=parse_bins(arguments.dq),
        smooth=arguments.smooth,
        frame_norm=not arguments.no_frame_norm,
        save_g2=arguments.save_g2,
        partials=arguments.partials,
        memory=None if arguments.memory is None else parse_bytes(arguments.memory),
    )
    layout = load_layout(arguments.layout)
    with open_frames(arguments.raw, layout) as source:
        qmap, origin = _qmap_for(arguments, source)
        result = correlate(source, qmap, options, arguments.threads)
    clock.lap("correlate")
    result.fits = fit_result(result)
    clock.lap("fit")
    result.parameters |= {"label": arguments.label, "layout": layout.name, **origin}
    write_result(arguments.out, result)
    clock.lap("write")
    digest = arguments.sha256
    if digest == "compute":
        digest = sha256_of(arguments.raw)
        clock.lap("sha256")
    if arguments.plots is not None:
        from als_analysis.xpcs.plots import plot_summary

        plot_summary(result, arguments.plots)
        clock.lap("plots")
    if arguments.summary is not None:
        write_json(
            arguments.summary,
            summary_of(
                result,
                arguments.out,
                quality(result),
                {
                    "versions": software_versions(),
                    "timings": clock.seconds,
                    "device": cpu_device(arguments.threads or available_cores()),
                    "input": {"path": str(arguments.raw), "bytes": arguments.raw.stat().st_size, "sha256": digest},
                },
            ),
        )
    return OK


def _qmap_for(arguments: argparse.Namespace, source: Any) -> tuple[Any, dict[str, Any]]:
    """The q-map that the command asks for, and where it came from, for the record."""
    from als_analysis.failure import MetadataMissing, QMapError
    from als_analysis.readers.roi import read_roi
    from als_analysis.xpcs.binning import qmap_from_roi
    from als_analysis.xpcs.geometry import geometry_of
    from als_analysis.xpcs.qmap import read_qmap

    if arguments.qmap is not None:
        return read_qmap(arguments.qmap), {"qmap": str(arguments.qmap)}
    roi = arguments.roi or source.layout.companion(source.path, source.layout.roi_file)
    if roi is None:
        raise BadArguments(f"{source.path}: give --qmap or --roi: layout {source.layout.name} names no ROI file")
    labels = read_roi(roi, source.layout)
    if labels.shape != source.shape[1:]:
        raise QMapError(f"{roi}: {source.layout.roi}: the ROI is {labels.shape}, the frames are {source.shape[1:]}")
    try:
        geometry = geometry_of(source, source.metadata()[0])
    except MetadataMissing as missing:
        geometry = None  # g2 needs no q: the result then has bin numbers only
        print(f"als-xpcs: no q values: {missing}", file=sys.stderr)
    qmap = qmap_from_roi(labels, geometry, arguments.static_bins, where=f"{roi}: {source.layout.roi}")
    return qmap, {"roi": str(roi), "static_bins": arguments.static_bins}


def _qmap(arguments: argparse.Namespace) -> int:
    from als_analysis.readers import load_layout, open_frames
    from als_analysis.xpcs.qmap import write_qmap
    from als_analysis.xpcs.result import refuse_existing

    refuse_existing(arguments.out, arguments.overwrite)
    with open_frames(arguments.raw, load_layout(arguments.layout)) as source:
        qmap, _ = _qmap_for(arguments, source)
    write_qmap(arguments.out, qmap)
    return OK


def _simulate(arguments: argparse.Namespace) -> int:
    from als_analysis.xpcs.simulate import SIZES, Movie, write_movie

    frames, side = SIZES[arguments.size]
    movie = Movie(
        frames=arguments.frames or frames,
        side=arguments.side or side,
        rings=arguments.rings,
        contrast=arguments.contrast,
        tau_frames=arguments.tau,
        frame_time_s=arguments.frame_time,
        photons=arguments.photons,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )
    truth = write_movie(
        movie, arguments.out, arguments.roi_out, arguments.truth, arguments.over_seconds, arguments.overwrite
    )
    print(json.dumps(truth))
    return OK


class _Clock:
    """Seconds of each part of the work."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self._last = now


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    verbs = {"corr": _corr, "qmap": _qmap, "simulate": _simulate}
    return run_command("als-xpcs", lambda: verbs[arguments.verb](arguments))


if __name__ == "__main__":
    sys.exit(main())
