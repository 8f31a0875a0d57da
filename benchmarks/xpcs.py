"""What als-xpcs costs, against what this machine can do: one JSON document on stdout, every ratio from this one run.

    .venv/bin/python benchmarks/xpcs.py [--quick] [--peer PYTHON] [--dir DIR] > xpcs.json

The yardstick is the time that one process with h5py and hdf5plugin needs only to decode the same file. Each figure
comes from processes of its own (imports and JIT are not in it): the smallest of a few rounds, in which yardstick and
analysis take turns, because other programs may be using the machine. `--peer` is a Python that has scikit-beam.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = {"frames": "/entry/data/data", "frame_time": {"value": 0.001, "unit": "s"}}


def make(path: Path, frames: int, side: int, photons: float, different: int = 100) -> Path:
    """A uint16 stack, bitshuffle-lz4, one frame per chunk; `different` frames are drawn, then repeated as encoded."""
    import h5py
    import hdf5plugin
    import numpy as np

    rng = np.random.default_rng(frames)
    y, x = np.indices((side, side)) - side / 2
    rate = photons * np.exp(-np.hypot(x, y) / side / 0.3)
    rate *= photons / rate.mean() * (0.5 + 0.5 * rng.exponential(size=rate.shape))
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "/entry/data/data", (frames, side, side), "u2", chunks=(1, side, side), **hdf5plugin.Bitshuffle(cname="lz4")
        )
        for index in range(min(different, frames)):
            data[index] = rng.poisson(rate)
        file.flush()
        encoded = [data.id.read_direct_chunk((i, 0, 0)) for i in range(min(different, frames))]
        for index in range(different, frames):
            mask, chunk = encoded[index % different]
            data.id.write_direct_chunk((index, 0, 0), chunk, mask)
    return path


def rings(side: int) -> Any:
    """About three quarters of the pixels (195,000 of 512 x 512) in 8 dynamic and 320 static bins."""
    from als_analysis.xpcs.binning import qmap_from_geometry
    from als_analysis.xpcs.geometry import Geometry

    geometry = Geometry(10_000.0, 5.0, 75e-6, 75e-6, side / 2, side / 2)
    q, _ = geometry.q_phi((side, side))
    return qmap_from_geometry((side, side), geometry, (8, 1), (80, 4), (0.0, float(q[side // 2, int(side * 0.9885)])))


def child(task: dict[str, Any]) -> dict[str, Any]:
    """Run in a process of its own: one measurement."""
    kind, path = task["kind"], Path(task["path"])
    if kind == "yardstick":
        import h5py
        import hdf5plugin  # noqa: F401
        import numpy as np

        began, cpu = time.perf_counter(), time.process_time()
        with h5py.File(path) as file:
            data = file["/entry/data/data"]
            frame = np.empty(data.shape[1:], data.dtype)
            for index in range(len(data)):
                data.read_direct(frame, np.s_[index])
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    if kind == "peer":
        return peer(task)
    from als_analysis.readers import load_layout, open_frames
    from als_analysis.xpcs import corr
    from als_analysis.xpcs.corr import correlate, fit_result
    from als_analysis.xpcs.options import Options
    from als_analysis.xpcs.result import write_result

    if kind == "twotime":
        return two_time_rate(task)
    layout, qmap = load_layout(LAYOUT), rings(task["side"])
    options = Options(sparse=task.get("sparse", "auto"), partials=task.get("partials", 2))

    if task.get("frames_first"):  # as if the page cache could not hold the file
        corr.cached_bytes = lambda: 0

    def once(raw: Path) -> None:
        with open_frames(raw, layout) as source:
            result = correlate(source, qmap, options)
        result.fits = fit_result(result)
        write_result(path.with_suffix(".result"), result)

    for _ in range(task.get("warm", 1)):
        once(Path(task["warm_up"]))  # loads the compiled code from its cache
    began, cpu = time.perf_counter(), time.process_time()
    once(path)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "rss_mb": _high_water_mb(),
        "pixels": len(qmap.used()),
    }


def _high_water_mb() -> float:
    # not ru_maxrss, which a child inherits from its parent
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def two_time_rate(task: dict[str, Any]) -> dict[str, Any]:
    """Two-time of 8 bins, from matrices in memory to C, against numpy's x @ x.T of the same matrices."""
    import numpy as np
    from als_analysis.workers import Workers
    from als_analysis.xpcs import twotime

    frames, pixels, bins = task["frames"], task["pixels"], 8
    rng = np.random.default_rng(1)
    x = rng.random((frames, pixels // bins), dtype=np.float32)
    flops = 2.0 * frames * frames * x.shape[1]
    numpy_s, ours_s = [], []
    with Workers(os.cpu_count() or 1) as workers:
        for _ in range(bins // 2):
            began = time.perf_counter()
            x @ x.T
            numpy_s.append(time.perf_counter() - began)
            began = time.perf_counter()
            grown = twotime._Map(frames, 1 << 40, None)
            grown.add(x, workers)
            grown.finish(1, workers)
            ours_s.append(time.perf_counter() - began)
    return {
        "numpy_gflops": flops / min(numpy_s) / 1e9,
        "als_gflops": flops / min(ours_s) / 1e9,
        "share": min(numpy_s) / min(ours_s),
    }


def peer(task: dict[str, Any]) -> dict[str, Any]:
    """scikit-beam's multi_tau_auto_corr on some frames of the same file, decoded beforehand."""
    import h5py
    import hdf5plugin  # noqa: F401
    import numpy as np
    from skbeam.core.correlation import multi_tau_auto_corr

    with h5py.File(task["path"]) as file:
        frames = file["/entry/data/data"][: task["frames"]].astype(float)
    labels = np.load(task["labels"])
    levels = int(np.log2(len(frames) / 8)) + 1
    began = time.perf_counter()
    multi_tau_auto_corr(levels, 8, labels, frames)
    return {"seconds": time.perf_counter() - began, "frames": len(frames)}


def measure(task: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """One measurement in a new process."""
    done = subprocess.run([python, __file__, "--child", json.dumps(task)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{task}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def best(tasks: dict[str, dict[str, Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """The fastest of `rounds` measurements of each task, the tasks taking turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            found[name].append(measure(task))
    return {name: min(all_, key=lambda m: m["seconds"]) for name, all_ in found.items()}


def accuracy(seeds: int) -> dict[str, Any]:
    """Against the tests' float64 implementation, and against simulated truth."""
    import numpy as np
    from als_analysis.workers import Workers
    from als_analysis.xpcs.corr import FIT_PAIRS, pixels_of
    from als_analysis.xpcs.fits import fit_bins, model
    from als_analysis.xpcs.multitau import Correlator
    from als_analysis.xpcs.simulate import Movie, frames_of, intensity

    path = ROOT / "analysis/tests/test_multitau.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    deviations, contrasts, taus, worst = [], [], [], {"g2": 0.0, "error": 0.0}
    with Workers(os.cpu_count() or 1) as workers:
        for seed in range(seeds):
            movie = Movie(frames=1000, side=192, seed=seed)
            pixels = pixels_of(movie.qmap())
            frames = np.concatenate(list(frames_of(movie))).reshape(movie.frames, -1)
            mean = frames[:, pixels.used].mean(axis=1, dtype=np.float64)
            correlator = Correlator(movie.frames, pixels, workers)
            correlator.add(frames, (1.0 / mean).astype(np.float32))
            (g2, error), _ = correlator.g2()
            if seed == 0:
                want = reference.direct(frames[:, pixels.used], pixels.static, pixels.dynamic)
                worst = {
                    "g2": float(np.max(np.abs(g2 / want["g2"] - 1))),
                    "error": float(np.nanmax(np.abs(error / want["error"] - 1))),
                }
            lags = correlator.lags
            rows = lags.pairs >= FIT_PAIRS
            fit = fit_bins(lags.delay[rows], lags.level[rows], g2[rows], error[rows], movie.frame_time_s)
            truth = movie.tau_per_ring()
            contrasts.append(fit.contrast / movie.contrast - 1)
            taus.append(fit.tau_s / movie.frame_time_s / truth - 1)
            # the mean intensity differs a little inside a static bin: that lifts g2 by <S^2> / <S>^2, known here
            mean_s = intensity(movie).astype(np.float64).ravel()[pixels.used]
            counts = np.bincount(pixels.static)
            lift = np.bincount(pixels.static, mean_s**2) / counts / (np.bincount(pixels.static, mean_s) / counts) ** 2
            owner = np.zeros(len(lift), dtype=int)
            owner[pixels.static] = pixels.dynamic
            lift = np.bincount(owner, lift) / np.bincount(owner)
            decay = np.array([1 + movie.contrast * model(lags.delay, lags.level, t) for t in truth]).T
            deviations.append(g2 - decay * lift)
    away = np.array(deviations)
    standard = away.std(axis=0, ddof=1) / np.sqrt(seeds)
    inside = np.abs(away.mean(axis=0)) <= 4 * standard
    return {
        "worst_relative": worst,
        "seeds": seeds,
        "points": int(inside.size),
        "points_within_4_standard_errors": float(inside.mean()),
        "largest_mean_deviation": float(np.abs(away.mean(axis=0)).max()),
        "contrast_mean_deviation": float(np.abs(np.mean(contrasts, axis=0)).max()),
        "tau_mean_deviation": float(np.abs(np.mean(taus, axis=0)).max()),
        "contrast_worst_seed": float(np.abs(contrasts).max()),
        "tau_worst_seed": float(np.abs(taus).max()),
    }


def start_up(folder: Path) -> dict[str, Any]:
    """Seconds from the call to the end of `als-xpcs --help`, of all imports of an analysis, and of the first ones ever.

    An analysis compiles what its kind of data takes, once: `events` are nearly empty frames, `dense` others.
    """
    program = str(Path(sys.executable).parent / "als-xpcs")
    imports = "import als_analysis.xpcs.run, als_analysis.xpcs.kernels_sparse, scipy.linalg.blas, h5py, hdf5plugin"

    def seconds(command: list[str], rounds: int = 1, **extra: str) -> float:
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=os.environ | extra)
            found.append(time.perf_counter() - began)
        return round(min(found), 2)

    found: dict[str, Any] = {
        "help": seconds([program, "--help"], 3),
        "imports": seconds([sys.executable, "-c", imports], 3),
    }
    for name, photons, dtype in (("dense", "8", "uint16"), ("events", "0.01", "uint16"), ("float", "8", "float32")):
        raw = folder / f"{name}.h5"
        made = ["simulate", str(raw), "--overwrite", "--photons", photons, "--dtype", dtype]
        subprocess.run([program, *made], check=True, capture_output=True)
        corr = [program, "corr", str(raw), "--out", str(folder / "tiny.hdf"), "--overwrite", "--sha256", "none"]
        with tempfile.TemporaryDirectory() as cache:
            first = seconds(corr, NUMBA_CACHE_DIR=cache)
            again = seconds(corr, 2, NUMBA_CACHE_DIR=cache)
        found[name] = {"first_ever": first, "second": again, "jit_once": round(first - again, 2)}
    return found


def run(folder: Path, quick: bool, peer_python: str | None) -> dict[str, Any]:
    """All of it."""
    import numpy as np

    rounds = 2 if quick else 4
    small = make(folder / "warm.h5", 300, 512, 8.0)
    report: dict[str, Any] = {
        "schema": "als-xpcs-benchmark/1",
        "machine": {
            "cpu": platform.processor(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "python": platform.python_version(),
        },
    }
    report["start_up_s"] = start_up(folder)
    report["accuracy"] = accuracy(5 if quick else 20)
    cases = {"512x512x2000": (2000, 512)} if quick else {"512x512x2000": (2000, 512), "1024x1024x1000": (1000, 1024)}
    for name, (frames, side) in cases.items():
        raw = make(folder / f"{name}.h5", frames, side, 8.0)
        warm = small if side == 512 else make(folder / "warm1024.h5", 60, 1024, 8.0)
        found = best(
            {
                "yardstick": {"kind": "yardstick", "path": str(raw)},
                "als": {"kind": "als", "path": str(raw), "side": side, "warm_up": str(warm), "sparse": "never"},
                "als_frames_first": {
                    "kind": "als",
                    "path": str(raw),
                    "side": side,
                    "warm_up": str(warm),
                    "sparse": "never",
                    "frames_first": True,
                },
            },
            rounds,
        )
        report[name] = found | {
            "times_yardstick": found["als"]["seconds"] / found["yardstick"]["seconds"],
            "cpu_times_yardstick": found["als"]["cpu"] / found["yardstick"]["cpu"],
            "frames_first_times_yardstick": found["als_frames_first"]["seconds"] / found["yardstick"]["seconds"],
        }
    long = make(folder / "long.h5", 4000 if quick else 20000, 512, 8.0)
    more = measure({"kind": "als", "path": str(long), "side": 512, "warm_up": str(small), "sparse": "never"})
    base = report["512x512x2000"]["als"]["rss_mb"]
    report["memory"] = {
        "mb": base,
        "frames_more": 2 if quick else 10,
        "mb_more": more["rss_mb"],
        "ratio": more["rss_mb"] / base,
    }
    long.unlink()
    sparse = make(folder / "sparse.h5", 5000, 512, 0.01)
    paths = best(
        {
            name: {
                "kind": "als",
                "path": str(sparse),
                "side": 512,
                "warm_up": str(make(folder / "w.h5", 300, 512, 0.01)),
                "sparse": "always" if name == "events" else "never",
                "frames_first": name == "dense_frames_first",
            }
            for name in ("dense", "events", "dense_frames_first")
        },
        rounds,
    )
    report["sparse_512x512x5000"] = paths | {
        "times_faster": paths["dense"]["seconds"] / paths["events"]["seconds"],
        "cpu_times_less": paths["dense"]["cpu"] / paths["events"]["cpu"],
        "times_faster_than_frames_first": paths["dense_frames_first"]["seconds"] / paths["events"]["seconds"],
    }
    counts = (1000, 2000) if quick else (1000, 2000, 4000, 8000)
    report["frames_seconds"] = {}
    for frames in counts:
        raw = make(folder / "n.h5", frames, 512, 8.0)
        found = best(
            {"als": {"kind": "als", "path": str(raw), "side": 512, "warm_up": str(small), "sparse": "never"}}, rounds
        )
        report["frames_seconds"][frames] = {
            "seconds": round(found["als"]["seconds"], 3),
            "cpu": round(found["als"]["cpu"], 3),
        }
    report["two_time"] = max(
        (measure({"kind": "twotime", "path": "-", "frames": 2000, "pixels": 195_000}) for _ in range(2)),
        key=lambda m: m["share"],
    )
    report["scikit_beam"] = None
    if peer_python is not None:
        np.save(folder / "labels.npy", rings(512).dynamic_roi_map.astype(int))
        raw = folder / "512x512x2000.h5"
        some = measure(
            {"kind": "peer", "path": str(raw), "labels": str(folder / "labels.npy"), "frames": 200}, peer_python
        )
        per_2000 = some["seconds"] / some["frames"] * 2000
        report["scikit_beam"] = some | {
            "seconds_per_2000_frames": per_2000,
            "als_times_faster": per_2000 / report["512x512x2000"]["als"]["seconds"],
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="smaller cases, fewer rounds")
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with scikit-beam, for the comparison")
    parser.add_argument("--dir", type=Path, help="where the files go (about 4 GB; default: a temporary directory)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        print(json.dumps(run(Path(folder), arguments.quick, arguments.peer), indent=1))


if __name__ == "__main__":
    main()
