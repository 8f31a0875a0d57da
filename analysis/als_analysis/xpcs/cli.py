"""als-xpcs: correlate, check, plot, make q-maps, simulate. `als-xpcs VERB --help` shows an example of each."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from als_analysis.failure import OK, BadArguments, run_command

EXITS = """exit codes: 0 done; 2 bad arguments; 3 raw file unreadable or cut off; 4 q-map or ROI unusable;
5 output exists; 6 metadata missing; 7 not enough memory; 8 output cannot be written; 75 preempted (run it again)"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of als-xpcs."""
    parser = argparse.ArgumentParser(
        prog="als-xpcs", description="X-ray photon correlation spectroscopy.", epilog=EXITS
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example: als-xpcs {name} {example}".rstrip() + f"\n\n{EXITS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _corr_arguments(
        verb("corr", "correlate a raw file", "scan.h5 --out scan_results.hdf --summary summary.json --plots .")
    )

    qc = verb("qc", "judge a result file", "scan_results.hdf --json")
    qc.add_argument("result", type=Path)
    qc.add_argument("--json", action="store_true", help="one JSON document on stdout instead of a table")

    plot = verb("plot", "draw everything that a result file shows", "scan_results.hdf --out plots")
    plot.add_argument("result", type=Path)
    plot.add_argument("--out", type=Path, required=True, metavar="DIR")

    qmap = verb("qmap", "make a q-map file", "--raw scan.h5 --rings 20 --static-rings 200 --out qmap.h5")
    qmap.add_argument("--raw", type=Path, required=True, help="a raw file with the geometry in its metadata")
    qmap.add_argument("--out", type=Path, required=True)
    qmap.add_argument("--roi", type=Path, help="dynamic bins from an ROI's labels (default, when no --rings is given)")
    qmap.add_argument("--rings", type=int, help="dynamic bins: rings of equal width in q")
    qmap.add_argument("--wedges", type=int, default=1, help="dynamic bins per ring")
    qmap.add_argument("--static-rings", type=int, help="static bins: a multiple of --rings (default 10 times)")
    qmap.add_argument(
        "--static-wedges", type=int, help="static bins per ring: a multiple of --wedges (default the same)"
    )
    qmap.add_argument("--q-min", type=float, help="1/Angstrom")
    qmap.add_argument("--q-max", type=float, help="1/Angstrom")
    qmap.add_argument("--layout", help="layout: a shipped name, a file, or JSON (default als_7011)")
    qmap.add_argument("--static-bins", type=int, default=10, help="static bins per dynamic bin when made from an ROI")
    qmap.add_argument("--overwrite", action="store_true")

    _simulate_arguments(
        verb("simulate", "write a speckle movie with a known answer", "scan.h5 --truth t.json --seed 1")
    )
    verb("compile", "compile what analyses of the usual kinds of data take, so that none has to", "")
    return parser


def _corr_arguments(corr: argparse.ArgumentParser) -> None:
    corr.add_argument("raw", type=Path)
    corr.add_argument("--out", type=Path, required=True, help="the result file (HDF5)")
    which = corr.add_mutually_exclusive_group()
    which.add_argument("--qmap", type=Path, help="a q-map file")
    which.add_argument("--roi", type=Path, help="an ROI label image; default: the layout's, beside the raw file")
    corr.add_argument("--layout", help="layout: a shipped name, a file, or JSON (default als_7011; .imm files: imm)")
    corr.add_argument("--static-bins", type=int, default=10, help="static bins per dynamic bin when made from an ROI")
    corr.add_argument("--label", default="", help="names this product when a scan is analysed more than one way")
    corr.add_argument("--overwrite", action="store_true", help="replace an existing result")
    corr.add_argument("--summary", type=Path, help="write the numbers and the QC there as JSON")
    corr.add_argument("--plots", type=Path, metavar="DIR", help="write g2.png and scattering.png there")
    corr.add_argument("--status", type=Path, help="keep a status file there (default: status.json beside --summary)")
    corr.add_argument("--type", choices=("multitau", "twotime", "both"), default="multitau")
    corr.add_argument("--begin", type=int, default=0, help="first frame, from 0")
    corr.add_argument("--end", type=int, help="frame to stop before (default: all)")
    corr.add_argument("--stride", type=int, default=1, help="take every n-th frame")
    corr.add_argument("--avg", type=int, default=1, help="average n frames in a row")
    corr.add_argument("--dq", default="", help="dynamic bins of the two-time maps, such as 1,2,5-7 (default: all)")
    corr.add_argument("--smooth", choices=("none", "sqmap", "dqmap"), default="sqmap", help="two-time normalisation")
    corr.add_argument("--partials", type=int, default=2, help="cut the frames into so many parts with a g2 each")
    corr.add_argument("--no-frame-norm", action="store_true", help="do not divide each frame by its mean")
    corr.add_argument(
        "--save-G2", dest="save_g2", action="store_true", help="store the per-pixel G2, IP, IF maps as well"
    )
    corr.add_argument("--threads", type=int, help="default: the cores that this process may use")
    corr.add_argument("--memory", metavar="LIMIT", help="most memory to take, such as 2G")
    corr.add_argument(
        "--sparse",
        choices=("auto", "always", "never"),
        default="auto",
        help="treat frames as lists of events: by measured occupancy, always, never",
    )
    corr.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto is cpu; cuda needs torch")
    corr.add_argument(
        "--sha256",
        default="compute",
        metavar="HEX|compute|none",
        help="digest of the raw file, for the record; computed beside the analysis by default",
    )


def _simulate_arguments(simulate: argparse.ArgumentParser) -> None:
    simulate.add_argument("out", type=Path)
    simulate.add_argument("--roi-out", type=Path, help="default: <stem>_roi.h5 beside")
    simulate.add_argument("--truth", type=Path, help="write the known answer there as JSON")
    simulate.add_argument("--size", choices=("tiny", "small", "large"), default="tiny")
    simulate.add_argument("--format", choices=("als_7011", "aps_8idi", "imm", "imm-sparse"), default="als_7011")
    simulate.add_argument("--frames", type=int, help="instead of the size's own number")
    simulate.add_argument("--side", type=int, help="height and width in pixels, instead of the size's own")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--dtype", help="default float32, uint16 in the formats of 8-ID")
    simulate.add_argument("--contrast", type=float, default=0.25)
    simulate.add_argument("--q", type=int, default=4, dest="rings", help="number of q rings (dynamic bins)")
    simulate.add_argument("--tau", type=float, default=9.0, help="correlation time of the innermost ring, in frames")
    simulate.add_argument("--frame-time", type=float, default=0.05, help="seconds")
    simulate.add_argument("--photons", type=float, default=100.0, help="mean photons per pixel and frame")
    simulate.add_argument("--over-seconds", type=float, default=0.0, help="write in pieces, as slowly as this")
    simulate.add_argument("--overwrite", action="store_true")


def _corr(arguments: argparse.Namespace) -> int:
    from als_analysis.readers.layout import layout_for
    from als_analysis.xpcs.options import Options, parse_bins, parse_bytes
    from als_analysis.xpcs.progress import StopSignal
    from als_analysis.xpcs.run import Request, run

    status = arguments.status
    if status is None and arguments.summary is not None:
        status = arguments.summary.with_name("status.json")
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
        sparse=arguments.sparse,
        device=arguments.device,
        memory=None if arguments.memory is None else parse_bytes(arguments.memory),
    )
    run(
        Request(
            raw=arguments.raw,
            out=arguments.out,
            layout=layout_for(arguments.raw, arguments.layout),
            options=options,
            qmap=arguments.qmap,
            roi=arguments.roi,
            static_bins=arguments.static_bins,
            label=arguments.label,
            overwrite=arguments.overwrite,
            summary=arguments.summary,
            plots=arguments.plots,
            status=status,
            sha256=arguments.sha256,
            threads=arguments.threads,
        ),
        StopSignal().install(),
    )
    return OK


def _qc(arguments: argparse.Namespace) -> int:
    from als_analysis.atomic import json_safe
    from als_analysis.xpcs.qc import quality
    from als_analysis.xpcs.result import read_result

    checks = quality(read_result(arguments.result))
    if arguments.json:
        print(json.dumps(json_safe({"schema": "als-xpcs-qc/1", "result": str(arguments.result), "qc": checks})))
        return OK
    for name, check in checks.items():
        value = "-" if check["value"] is None else f"{check['value']:.4g}"
        print(f"{check['verdict']:<5} {name:<22} {value:>10}  {check['explanation']}")
    return OK


def _plot(arguments: argparse.Namespace) -> int:
    from als_analysis.xpcs.plots import plot_all
    from als_analysis.xpcs.result import read_result

    for path in plot_all(read_result(arguments.result), arguments.result, arguments.out):
        print(path)
    return OK


def _qmap(arguments: argparse.Namespace) -> int:
    from als_analysis.readers import open_frames
    from als_analysis.readers.layout import layout_for
    from als_analysis.xpcs.binning import qmap_from_geometry
    from als_analysis.xpcs.geometry import geometry_of
    from als_analysis.xpcs.qmap import write_qmap
    from als_analysis.xpcs.result import refuse_existing
    from als_analysis.xpcs.run import qmap_for

    refuse_existing(arguments.out, arguments.overwrite)
    with open_frames(arguments.raw, layout_for(arguments.raw, arguments.layout)) as source:
        if arguments.rings is None:
            qmap, _ = qmap_for(source, None, arguments.roi, arguments.static_bins)
        else:
            if (arguments.q_min is None) != (arguments.q_max is None):
                raise BadArguments("--q-min and --q-max go together")
            geometry = geometry_of(source, source.metadata()[0])
            static = (arguments.static_rings or 10 * arguments.rings, arguments.static_wedges or arguments.wedges)
            limits = None if arguments.q_min is None else (arguments.q_min, arguments.q_max)
            qmap = qmap_from_geometry(source.shape[1:], geometry, (arguments.rings, arguments.wedges), static, limits)
    write_qmap(arguments.out, qmap)
    return OK


def _simulate(arguments: argparse.Namespace) -> int:
    from als_analysis.xpcs.movie_file import write_movie
    from als_analysis.xpcs.simulate import SIZES, Movie

    frames, side = SIZES[arguments.size]
    dtype = arguments.dtype or ("float32" if arguments.format == "als_7011" else "uint16")
    movie = Movie(
        frames=arguments.frames or frames,
        side=arguments.side or side,
        rings=arguments.rings,
        dtype=dtype,
        contrast=arguments.contrast,
        tau_frames=arguments.tau,
        frame_time_s=arguments.frame_time,
        photons=arguments.photons,
        seed=arguments.seed,
    )
    truth = write_movie(
        movie,
        arguments.out,
        arguments.roi_out,
        arguments.truth,
        arguments.over_seconds,
        arguments.overwrite,
        arguments.format,
    )
    print(json.dumps(truth))
    return OK


def _compile(_: argparse.Namespace) -> int:
    from als_analysis.xpcs.precompile import compile_all

    print(f"kept in {compile_all(print)}")
    return OK


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    verbs = {"corr": _corr, "qc": _qc, "plot": _plot, "qmap": _qmap, "simulate": _simulate, "compile": _compile}
    return run_command("als-xpcs", lambda: verbs[arguments.verb](arguments))


if __name__ == "__main__":
    sys.exit(main())
