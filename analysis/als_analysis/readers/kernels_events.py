"""The compiled loops from frames or lists of pixels to events in their order (see `events`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from als_analysis.compiled import compiled, compiled_part
from als_analysis.readers.events import COUNT_SHIFT, FRAME_SHIFT, MORE

MOST_IN_CODE = 31  # a larger count takes more codes, and so does one that is not positive


@compiled
def count_events(words: Any, raw: Any, begin: int, end: int, counts: Any) -> None:
    """Number of pixels that are not 0 in frames begin … end; `words` is `raw` itself, or the same as u64 (n, m)."""
    width = raw.shape[1] // words.shape[1]
    for t in range(begin, end):
        found = 0
        for w in range(words.shape[1]):
            if words[t, w] != 0:
                for p in range(w * width, (w + 1) * width):
                    found += 1 if raw[t, p] != 0 else 0
        counts[t] = found


@compiled
def list_events(words: Any, raw: Any, begin: int, end: int, starts: Any, pixel: Any, count: Any) -> None:
    """Write the pixels that are not 0 of frames begin … end, frame by frame from starts[t] on."""
    width = raw.shape[1] // words.shape[1]
    for t in range(begin, end):
        at = starts[t]
        for w in range(words.shape[1]):
            if words[t, w] != 0:
                for p in range(w * width, (w + 1) * width):
                    if raw[t, p] != 0:
                        pixel[at] = p
                        count[at] = raw[t, p]
                        at += 1


@compiled
def sum_events(
    starts: Any, pixel: Any, count: Any, used: Any, top: int, begin: int, end: int, sums: Any, full: Any
) -> None:
    """Of frames begin … end, the sum of the counts in used pixels, and how many of these are `top`."""
    for t in range(begin, end):
        total = np.int64(0)
        highest = np.int64(0)
        for e in range(starts[t], starts[t + 1]):
            if (used[pixel[e] >> 6] >> np.uint64(pixel[e] & 63)) & np.uint64(1):
                total += np.int64(count[e])
                highest += np.int64(np.int64(count[e]) == top)
        sums[t] = total
        full[t] = highest


@compiled
def count_codes(starts: Any, pixel: Any, count: Any, edges: Any, begin: int, end: int, lengths: Any) -> None:
    """How many codes each word of slices begin … end takes."""
    for s in range(begin, end):
        for e in range(starts[edges[s]], starts[edges[s + 1]]):
            plain = 1 <= np.int64(count[e]) <= MOST_IN_CODE
            lengths[s, pixel[e] >> 6] += np.uint16(1 if plain else 1 + MORE)


@compiled
def place_codes(starts: Any, pixel: Any, count: Any, edges: Any, begin: int, end: int, place: Any, codes: Any) -> None:
    """Write the codes of slices begin … end, each word's from place[s, word] on; `place` is written to."""
    for s in range(begin, end):
        for t in range(edges[s], edges[s + 1]):
            for e in range(starts[t], starts[t + 1]):
                word = pixel[e] >> 6
                at = place[s, word]
                place[s, word] = put_code(codes, at, pixel[e] & 63, t - edges[s], np.int64(count[e]))


@compiled_part
def put_code(codes: Any, at: Any, pixel: Any, frame: Any, count: Any) -> Any:
    """Write an event to codes[at]; gives where the next one is written to."""
    here = pixel | frame << FRAME_SHIFT
    if 1 <= count <= MOST_IN_CODE:
        codes[at] = here | count << COUNT_SHIFT
        return at + 1
    codes[at] = here
    for part in range(MORE):
        codes[at + 1 + part] = (count >> 16 * part) & 0xFFFF
    return at + 1 + MORE
