"""Compile what analyses take: all of it once, after an installation; or a part of it in another process.

An analysis that finds nothing kept has what its end takes compiled elsewhere, while it compiles what its beginning
takes, and so waits for about half as long.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from als_analysis.failure import OutputError
from als_analysis.readers.events import SLICE, WORD, Events
from als_analysis.workers import Workers
from als_analysis.xpcs.events import FEWEST_FRAMES, EventCorrelator, Room
from als_analysis.xpcs.multitau import BinSums
from als_analysis.xpcs.observe import Observer
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.state import State, lags_for
from als_analysis.xpcs.tiles import Pixels, arrange

SUMS, EVENTS = "sums", "events"


def precompile(what: str, options: Options, threads: int) -> None:
    """Begin to compile SUMS over bins, or what correlates EVENTS, if that is not kept.

    Not where there is a limit of memory (the other process takes some), or one thread only.
    """
    if options.memory is not None or threads == 1:
        return
    from als_analysis.compiled import elsewhere

    functions: list[Any]
    if what == EVENTS:
        from als_analysis.xpcs import kernels_sparse

        functions = [kernels_sparse.add_events]  # the sums are under way
    else:
        from als_analysis.xpcs import kernels_bins, kernels_frames

        functions = [kernels_bins.reduce_tiles, kernels_frames.add_segments]
    elsewhere(functions, [sys.executable, "-P", "-m", __name__, what])


def compile_now(what: str) -> None:
    """Call what is to be compiled, with next to nothing."""
    none = np.zeros(WORD, dtype=np.int64)
    pixels = arrange(WORD, np.arange(WORD), none, none, windows=True)
    observer = Observer((1, WORD), FEWEST_FRAMES, pixels, 1, np.dtype(np.uint16))
    if what == EVENTS:
        _correlate_events(pixels, observer)
    else:
        _sum_bins(pixels)
        observer.add_pixels(0, np.zeros((1, WORD), dtype=np.int64))


def _sum_bins(pixels: Pixels) -> None:
    state = State.empty(1, lags_for(FEWEST_FRAMES).levels)
    sums = BinSums.empty(1, 1, state.sums.shape[1])
    sums.add_tiles((0, 0), pixels.static_of_lane, pixels.dynamic_of_lane, state, None, None)


def _correlate_events(pixels: Pixels, observer: Observer) -> None:
    edges = np.arange(0, FEWEST_FRAMES + 1, SLICE, dtype=np.int64)
    none, no_codes = np.zeros_like(edges[1:]), np.zeros(0, dtype=np.uint16)
    lengths, per_frame = np.zeros((len(none), 1), dtype=np.uint16), np.zeros(FEWEST_FRAMES, dtype=np.int64)
    events = Events(edges, none, none, lengths, no_codes, per_frame, per_frame, lambda t: no_codes)
    with Workers(1) as workers:
        correlator = EventCorrelator(FEWEST_FRAMES, pixels, workers, observer, Room(Path(), len(none), True), False)
        correlator.add_events(events, np.ones(FEWEST_FRAMES, dtype=np.float32))
        correlator.cut(True)
        correlator.finish()


_FRAMES, _SIDE, _FEW = 300, 64, 0.01
_KINDS = (  # format of the file, type of its numbers, photons per pixel and frame, what is correlated
    ("als_7011", "float32", 8.0, "both"),
    ("aps_8idi", "uint16", 8.0, "both"),
    ("aps_8idi", "uint16", _FEW, "multitau"),
    ("aps_8idi", "uint32", 8.0, "multitau"),
    ("aps_8idi", "uint32", _FEW, "multitau"),
    ("imm-sparse", "uint16", _FEW, "multitau"),
)


def compile_all(say: Callable[[str], None]) -> Path:
    """Analyse a little of each usual kind of data, so that no analysis of such data compiles any more.

    say() is told each kind and the seconds that it took. Returns the folder where the code is kept; raises
    `OutputError` where it is not.
    """
    from als_analysis.compiled import Kept
    from als_analysis.readers import load_layout
    from als_analysis.xpcs import kernels_bins
    from als_analysis.xpcs.movie_file import write_movie
    from als_analysis.xpcs.run import Request, run
    from als_analysis.xpcs.simulate import Movie

    last: Any = kernels_bins.reduce_tiles
    cache = last._cache
    with TemporaryDirectory() as folder:
        for number, (form, dtype, photons, kind) in enumerate(_KINDS):
            raw = Path(folder) / f"{number}.{'imm' if form.startswith('imm') else 'h5'}"
            write_movie(Movie(_FRAMES, _SIDE, dtype=dtype, photons=photons), raw, form=form)
            layout = load_layout(form.partition("-")[0])
            began = time.perf_counter()
            run(
                Request(
                    raw, raw.with_suffix(".hdf"), layout, Options(kind=kind), roi=raw.with_name(f"{raw.stem}_roi.h5")
                )
            )
            say(f"{form}, {dtype}, {photons:g} photons per pixel: {time.perf_counter() - began:.1f} s")
    if not isinstance(cache, Kept) or not cache.is_there():
        raise OutputError(
            "compiled code was not kept: set NUMBA_CACHE_DIR to a folder that can be written and has room"
        )
    return Path(cache.cache_path)


if __name__ == "__main__":
    compile_now(sys.argv[1])
