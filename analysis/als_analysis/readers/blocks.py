"""Frames as bitshuffle's blocks of pixels, each of which can be read and decoded by itself.

A chunk is a frame: its blocks of 4096 or so pixels lie one after the other, each with its length before it. Read once
over all frames (`index`), it is known where in each chunk a group of blocks begins; then that group can be read from
all frames (`read`), which goes well while the file is in the page cache.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import RawFileError
from als_analysis.readers.bitshuffle import HEADER, LARGEST_BLOCK
from als_analysis.workers import Workers

if TYPE_CHECKING:
    from als_analysis.readers.chunks import Chunks, Fetched


class Blocks:
    """The blocks of a file's frames: `pixels` in each of `count`, the last one perhaps smaller; `lz4` its address."""

    def __init__(self, chunks: Chunks, descriptor: int, pixels: int) -> None:
        self._chunks, self._descriptor = chunks, descriptor
        self.pixels, self.count = pixels, -(-chunks.pixels // pixels)
        self.dtype, self.lz4 = chunks.dtype, chunks.lz4 or 0

    def encoded_bytes(self, frames: range) -> int:
        """The length of these frames' chunks."""
        return int(self._chunks.size[frames.start : frames.stop : frames.step].sum())

    def index(
        self, fetched: Fetched, used: NDArray[np.uint64], together: int, widths: NDArray[Any], workers: Workers
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sums of fetched frames over the used pixels, and how many of these are at the top of their type's range.

        `used` has a bit for each pixel, the lowest first. `widths` (n, groups) gets the bytes of every `together`
        blocks of a frame. A sum is -1 where a chunk is not what it should be.
        """
        from als_analysis.readers.unshuffle import sum_blocks

        sums, full = np.empty((2, len(fetched)), dtype=np.int64)
        item, pixels = self.dtype.itemsize, self._chunks.pixels

        def work(begin: int, end: int) -> None:
            sum_blocks(
                self.lz4, fetched.data, fetched.starts, begin, end, pixels, item, self.pixels, together, used, widths,
                sums, full,
            )  # fmt: skip

        workers.share(work, len(fetched))
        return sums, full

    def widths(self, frames: int, together: int) -> NDArray[Any]:
        """An array for `index`, of the smallest type that can hold what `together` blocks take at most."""
        size = self.pixels * self.dtype.itemsize
        most = together * (4 + size + size // 255 + 16)
        return np.zeros((frames, -(-self.count // together)), dtype=np.uint16 if most < 1 << 16 else np.uint32)

    def prepare(self) -> None:
        """Have what `read` calls compiled, so that its first call is as fast as the others."""
        from als_analysis.readers.unshuffle import read_at

        nothing = np.zeros(1, dtype=np.int64)
        read_at(_pread_address(), self._descriptor, nothing[:0], nothing, np.empty(0, dtype=np.uint8))

    def read(self, frames: range, widths: NDArray[Any], group: int, buffer: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Read one group of blocks of all frames; gives starts: frame i's are buffer[starts[i] : starts[i + 1]].

        `widths` (n, groups) comes from `index`. Raises `RawFileError`.
        """
        from als_analysis.readers.unshuffle import read_at

        before = HEADER + widths[:, :group].sum(axis=1, dtype=np.int64)
        where = self._chunks.offset[frames.start : frames.stop : frames.step] + before
        starts = np.concatenate([[0], np.cumsum(widths[:, group], dtype=np.int64)])
        there = read_at(_pread_address(), self._descriptor, where, starts, buffer)
        if there < len(frames):
            raise RawFileError(f"{self._chunks.path}: frame {frames[int(there)]}: cut off while it was read")
        return starts


def blocks_of(chunks: Chunks, descriptor: int) -> Blocks | None:
    """The blocks of bitshuffled and LZ4-compressed unsigned numbers, or None where there are none."""
    unsigned = chunks.dtype.kind == "u" and chunks.dtype.itemsize <= 4 and chunks.pixels % 64 == 0
    if not unsigned or chunks.lz4 is None or _pread_address() == 0 or not (chunks.size > HEADER).all():
        return None
    size = int.from_bytes(os.pread(descriptor, HEADER, int(chunks.offset[0]))[8:], "big")
    pixels = size // chunks.dtype.itemsize
    return Blocks(chunks, descriptor, pixels) if 0 < size <= LARGEST_BLOCK and pixels % 64 == 0 else None


@cache
def _pread_address() -> int:
    """The address of C's pread, 0 where it cannot be had: Python's takes its lock again after each of many pieces."""
    program: Any = ctypes.CDLL(None)
    for name in ("pread64", "pread"):
        try:
            return ctypes.cast(getattr(program, name), ctypes.c_void_p).value or 0
        except AttributeError:
            continue
    return 0
