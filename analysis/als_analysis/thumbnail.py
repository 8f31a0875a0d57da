"""A small picture of a scan: the mean of a few frames, log-scaled, as a palette PNG, without a plotting library."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from als_analysis.readers.frames import FrameSource

MAX_BASE64_BYTES = 20_000
_FRAMES = 5
# anchors of the viridis colour map (CC0), which keeps its order in grey and for the colour-blind
_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (72, 40, 120),
        (62, 74, 137),
        (49, 104, 142),
        (38, 130, 142),
        (31, 158, 137),
        (53, 183, 121),
        (109, 205, 89),
        (180, 222, 44),
        (253, 231, 37),
    ],
    dtype=np.float64,
)


def thumbnail(source: FrameSource) -> str | None:
    """Base64 PNG of at most 20 kB, longest side 192 pixels; None where no frame has a finite value."""
    count = min(_FRAMES, source.shape[0])
    picks = np.unique(np.linspace(0, source.shape[0] - 1, count).astype(int))
    total = np.zeros(source.shape[1:], dtype=np.float64)
    seen = np.zeros(source.shape[1:], dtype=np.int64)
    for index in picks:
        frame = source.read(int(index), int(index) + 1)[0].astype(np.float64)
        finite = np.isfinite(frame)
        total += np.where(finite, frame, 0.0)
        seen += finite
    if not seen.any():
        return None
    image = np.where(seen > 0, total / np.maximum(seen, 1), np.nan)
    for side in (192, 160, 128, 96, 64, 48, 32):
        encoded = base64.b64encode(_png(_log_levels(_shrunk(image, side)))).decode()
        if len(encoded) <= MAX_BASE64_BYTES:
            return encoded
    return None


def _shrunk(image: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    factor = max(1, -(-max(image.shape) // side))
    height, width = (-(-n // factor) * factor for n in image.shape)
    padded = np.full((height, width), np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = padded.reshape(height // factor, factor, width // factor, factor)
    known = np.isfinite(blocks)
    sums = np.where(known, blocks, 0.0).sum(axis=(1, 3))
    counts = known.sum(axis=(1, 3))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _log_levels(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Palette indices 0-63: logarithmic above the first percentile, so that a dark-subtracted image shows as well."""
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, [1.0, 99.7])
    span = max(float(high - low), 1e-30)
    scaled = np.log1p(np.clip((np.nan_to_num(image, nan=low) - low) / span, 0.0, 1.0) * 30.0) / np.log1p(30.0)
    return np.asarray(np.rint(scaled * 63), dtype=np.uint8)


def _png(levels: NDArray[np.uint8]) -> bytes:
    # PNG specification 1.2: IHDR with bit depth 8 and colour type 3 (palette), filter 0 on each row
    anchors = np.linspace(0, 63, len(_VIRIDIS))
    palette = np.stack([np.interp(np.arange(64), anchors, _VIRIDIS[:, c]) for c in range(3)], axis=1)
    height, width = levels.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)
    rows[:, 1:] = levels
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", np.rint(palette).astype(np.uint8).tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
