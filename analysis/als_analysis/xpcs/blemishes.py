"""Pixels that the detector itself masks, gaps between its modules and dead ones, by the largest number that it has.

The q-map should leave them out, and often does not. One such pixel of 2^32 - 1 outweighs all others: frames are divided
by their mean, and sums over a part of the frames lose their digits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from als_analysis.failure import QMapError
from als_analysis.readers.frames import FrameSource
from als_analysis.xpcs.options import Options
from als_analysis.xpcs.qmap import QMap

_LOOKED_AT = 8  # frames, spread over the scan; a pixel at the top of its range in all of them has nothing to tell


def without_blemishes(source: FrameSource, qmap: QMap, options: Options) -> tuple[QMap, int]:
    """The q-map without the pixels that the detector masks, and how many used ones these were.

    They are those that hold the largest number of their type in each of 8 frames, spread evenly over those that are
    correlated; none in frames of floats, or where there are fewer frames than that. They become part of the q-map's
    `blemish`, the unused ones as well: for pictures. Raises `QMapError` where nothing is left, `RawFileError`.
    """
    frames = options.raw_frames(0, options.processed(source.shape[0]))
    if source.dtype.kind not in "ui" or len(frames) < _LOOKED_AT:
        return qmap, 0
    top = np.iinfo(source.dtype).max
    masked = np.ones(qmap.shape, dtype=bool)
    for number in range(_LOOKED_AT):
        frame = frames[(len(frames) - 1) * number // (_LOOKED_AT - 1)]
        masked &= source.read(frame, frame + 1)[0] == top
        if not masked.any():
            return qmap, 0
    used = masked.reshape(-1)[qmap.used()]
    if used.all():
        raise QMapError(f"{source.path}: every used pixel of the q-map {qmap.name} is at the top of {source.dtype}")
    blemish = np.ones(qmap.shape, dtype=np.uint8) if qmap.blemish is None else qmap.blemish.copy()
    blemish[masked] = 0
    return replace(qmap, blemish=blemish), int(used.sum())
