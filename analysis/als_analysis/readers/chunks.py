"""Frames straight from the chunks of an HDF5 file: read by offset, decoded in several threads at once.

HDF5 decodes one chunk at a time, under one lock. Where every frame is one chunk and its filter is one of those below,
the chunk's bytes are read with pread and decoded here: bitshuffle by the very library that hdf5plugin gives to HDF5,
deflate by zlib. Anything else is read through h5py.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import RawFileError
from als_analysis.readers.bitshuffle import HEADER, LARGEST_BLOCK
from als_analysis.readers.events import MOST_IN_WORD, SLICE, WORD, Events
from als_analysis.readers.frames import Sums
from als_analysis.workers import Workers

if TYPE_CHECKING:
    import h5py

_DEFLATE, _SHUFFLE, _BITSHUFFLE = 1, 2, 32008
_BITSHUFFLE_LZ4, _BITSHUFFLE_ZSTD = 2, 3
_FULLEST = 24  # frames with more than one event in so many pixels are not listed


@dataclass(frozen=True)
class Fetched:
    """The encoded bytes of some frames, one after the other: frame i's are data[starts[i] : starts[i + 1]]."""

    frames: range
    data: NDArray[np.uint8]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frames)

    def chunk(self, row: int) -> NDArray[np.uint8]:
        """The bytes of one frame."""
        return self.data[self.starts[row] : self.starts[row + 1]]


@dataclass
class Chunks:
    """Where the chunk of each frame lies (0 bytes: never written), and how to decode one."""

    path: Path
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    dtype: np.dtype[Any]
    pixels: int
    filters: tuple[int, ...]
    fill: Any
    bitshuffle: Any  # the C function, or None
    lz4: int | None = None  # the address of LZ4's, where bitshuffled frames are compressed with it
    _buffers: list[NDArray[np.uint8]] = field(default_factory=list)
    _codes: NDArray[np.uint16] | None = None

    def fetch(self, descriptor: int, frames: range) -> Fetched:
        """Read the encoded bytes of frames, into one of two buffers that take turns.

        Memory that is touched for the first time costs more than the reading. Raises `RawFileError` at the file's end.
        """
        size, offset = (a[frames.start : frames.stop : frames.step] for a in (self.size, self.offset))
        starts = np.concatenate([[0], np.cumsum(size)])
        buffer = self._buffers.pop(0) if len(self._buffers) > 1 else np.empty(0, dtype=np.uint8)
        if len(buffer) < starts[-1]:
            buffer = np.empty(int(starts[-1] * 1.1), dtype=np.uint8)
        self._buffers.append(buffer)
        bytes_ = memoryview(buffer)  # type: ignore[arg-type]
        # chunks that lie behind one another are read at once
        rows = np.flatnonzero(size)
        breaks = np.flatnonzero(offset[rows][1:] != (offset + size)[rows][:-1]) + 1
        for run in np.split(rows, breaks) if len(rows) else []:
            at, stop, where = int(starts[run[0]]), int(starts[run[-1] + 1]), int(offset[run[0]])
            while at < stop:
                read = os.preadv(descriptor, [bytes_[at:stop]], where)
                if read <= 0:
                    row = int(np.searchsorted(starts, at, side="right")) - 1
                    there = at - int(starts[row])
                    raise RawFileError(
                        f"{self.path}: frame {frames[row]}: cut off: {there} of {int(size[row])} bytes are there"
                    )
                at, where = at + read, where + read
        return Fetched(frames, buffer, starts)

    def decode(
        self, fetched: Fetched, out: NDArray[Any], workers: Workers, used: NDArray[np.uint64] | None
    ) -> Sums | None:
        """Decode fetched frames into `out` (n, pixels), with their sums where that is the faster way."""
        sums = self._decode_blocks(fetched, out, workers, used) if used is not None else None
        if sums is None:

            def work(begin: int, end: int) -> None:
                for row in range(begin, end):
                    data = fetched.data[fetched.starts[row] : fetched.starts[row + 1]]
                    self._decode_frame(data, out[row], fetched.frames[row])

            workers.share(work, len(fetched))
        return sums

    def _bits_can_be_read(self, fetched: Fetched) -> bool:
        whole = self.lz4 is not None and self.dtype.kind in "ui" and self.pixels % 64 == 0
        return whole and bool((np.diff(fetched.starts) > 0).all())

    def _decode_blocks(
        self, fetched: Fetched, out: NDArray[Any], workers: Workers, used: NDArray[np.uint64]
    ) -> Sums | None:
        if self.dtype.kind != "u" or self.dtype.itemsize > 4 or not self._bits_can_be_read(fetched):
            return None
        from als_analysis.readers.unshuffle import decode_blocks, find_blocks

        item, function = self.dtype.itemsize, self.lz4 or 0
        block = int.from_bytes(fetched.data[8:HEADER].tobytes(), "big") // item
        if not 0 < block * item <= LARGEST_BLOCK:
            return None
        where, size = np.empty((2, len(fetched), -(-self.pixels // block)), dtype=np.int64)
        if find_blocks(fetched.data, fetched.starts, self.pixels, item, where, size) != block:
            return None
        pixels = np.zeros(self.pixels, dtype=np.int64)
        parts: list[NDArray[np.int64]] = []
        sound: list[bool] = []

        def work(begin: int, end: int) -> None:
            frames = np.zeros(len(fetched), dtype=np.int64)
            parts.append(frames)
            sound.append(
                decode_blocks(function, fetched.data, where, size, block, begin, end, out, used, frames, pixels)
            )

        workers.share(work, where.shape[1])
        return Sums(np.sum(parts, axis=0), pixels) if all(sound) else None  # if not: decoding by frames says where

    def _decode_frame(self, data: NDArray[np.uint8], out: NDArray[Any], frame: int) -> None:
        """Decode one frame into `out` (pixels,), C-contiguous."""
        if len(data) == 0:
            out[:] = self.fill
            return
        if self.bitshuffle is not None:
            block = int.from_bytes(data[8:HEADER].tobytes(), "big") // self.dtype.itemsize
            decoded = int.from_bytes(data[:8].tobytes(), "big")
            if decoded != out.nbytes or block <= 0 or block % 8:
                raise RawFileError(f"{self.path}: frame {frame}: corrupted: {decoded} bytes in blocks of {block}")
            if self.lz4 is not None:
                from als_analysis.readers.unshuffle import is_sound

                if not is_sound(self.lz4, data, self.pixels, self.dtype.itemsize):
                    raise RawFileError(f"{self.path}: frame {frame}: corrupted: its blocks are not what it says")
            source = data.ctypes.data + HEADER
            used = self.bitshuffle(source, out.ctypes.data, self.pixels, self.dtype.itemsize, block)
            if used != len(data) - HEADER:
                raise RawFileError(f"{self.path}: frame {frame}: corrupted: bitshuffle gave {used}")
            return
        try:
            encoded = data.tobytes()
            plain = zlib.decompress(encoded, bufsize=out.nbytes) if _DEFLATE in self.filters else encoded
        except zlib.error as error:
            raise RawFileError(f"{self.path}: frame {frame}: corrupted: {error}") from error
        if len(plain) != out.nbytes:
            raise RawFileError(f"{self.path}: frame {frame}: corrupted: {len(plain)} of {out.nbytes} bytes")
        if _SHUFFLE in self.filters:
            planes = np.frombuffer(plain, dtype=np.uint8).reshape(self.dtype.itemsize, self.pixels)
            out.view(np.uint8).reshape(self.pixels, self.dtype.itemsize)[:] = planes.T
        else:
            out[:] = np.frombuffer(plain, dtype=self.dtype)

    def events(
        self, fetched: Fetched, edges: NDArray[np.int64], workers: Workers, used: NDArray[np.uint64]
    ) -> Events | None:
        """The events of fetched frames without decoding them to pixels, valid until the next call.

        None where that is not possible.
        """
        if self.dtype.itemsize > 4 or not self._bits_can_be_read(fetched):
            return None
        from als_analysis.readers.bitplanes import list_slices

        slices, frames, words = len(edges) - 1, len(fetched), self.pixels // WORD
        room = SLICE * (self.pixels // _FULLEST) + 2 * MOST_IN_WORD
        if self._codes is None or len(self._codes) < slices * room:
            self._codes = np.empty(slices * room, dtype=np.uint16)
        codes, lengths = self._codes, np.empty((slices, words), dtype=np.uint16)
        ends, (sums, full) = np.empty(slices, dtype=np.int64), np.empty((2, frames), dtype=np.int64)
        item, top = self.dtype.itemsize, int(np.iinfo(self.dtype).max)
        sign = 8 * item - 1 if self.dtype.kind == "i" else -1
        workers.share(
            lambda a, b: list_slices(
                self.lz4 or 0, fetched.data, fetched.starts, edges, a, b, self.pixels, item, sign, top, room, codes,
                ends, lengths, used, sums, full,
            ),
            slices,
        )  # fmt: skip
        if (ends < 0).any():
            return None  # too full, or not what it should be: decoding says which
        return Events(edges, np.arange(slices) * room, ends, lengths, codes, sums, full, fetched.chunk)


def chunks_of(dataset: h5py.Dataset, path: Path) -> Chunks | None:
    """How to read the frames of a dataset directly, or None where only HDF5 can."""
    n, height, width = dataset.shape
    if dataset.dtype.byteorder == ">" or dataset.id.get_offset() is not None:
        return None  # swapped bytes; or contiguous, which h5py reads at the disk's speed as it is
    if dataset.chunks != (1, height, width) or dataset.external is not None or dataset.is_virtual:
        return None
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    codes = tuple(int(f[0]) for f in filters)
    function = None
    if codes == (_BITSHUFFLE,):
        values = filters[0][2]
        function = _bitshuffle(int(values[4]) if len(values) > 4 else 0)
        if function is None:
            return None
    elif codes not in ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE)):
        return None
    offset, size = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    skipped = False

    def note(chunk: Any) -> None:
        nonlocal skipped
        frame = chunk.chunk_offset[0]
        offset[frame], size[frame] = chunk.byte_offset, chunk.size
        skipped = skipped or chunk.filter_mask != 0

    try:
        with _little_cached(dataset.file):
            dataset.id.chunk_iter(note)
    except (OSError, RuntimeError) as error:
        raise RawFileError(f"{path}: {dataset.name}: its chunk index cannot be read: {error}") from error
    if skipped:
        return None  # a filter was left out for some chunk: HDF5 knows what to do
    lz4 = _lz4_address() if function is not None and int(filters[0][2][4]) == _BITSHUFFLE_LZ4 else None
    return Chunks(path, offset, size, dataset.dtype, height * width, codes, dataset.fillvalue, function, lz4)


@contextmanager
def _little_cached(file: Any) -> Iterator[None]:
    """Have HDF5 forget the nodes of a chunk index as it goes over them: they would stay, with 0.4 kB per chunk."""
    usual, little = file.id.get_mdc_config(), file.id.get_mdc_config()
    little.set_initial_size, little.initial_size, little.min_size, little.max_size = True, 1 << 16, 1 << 10, 1 << 16
    little.incr_mode = little.flash_incr_mode = little.decr_mode = 0
    file.id.set_mdc_config(little)
    try:
        yield
    finally:
        file.id.set_mdc_config(usual)


def _library() -> Path | None:
    import hdf5plugin

    return next(iter(sorted(Path(hdf5plugin.PLUGIN_PATH).glob("libh5bshuf.*"))), None)


@cache
def _lz4_address() -> int | None:
    library = _library()
    try:
        return ctypes.cast(ctypes.CDLL(str(library)).LZ4_decompress_safe, ctypes.c_void_p).value if library else None
    except (OSError, AttributeError):
        return None  # another build of the plugin: frames are decoded whole


@cache
def _bitshuffle(compression: int) -> Any:
    name = {_BITSHUFFLE_LZ4: "bshuf_decompress_lz4", _BITSHUFFLE_ZSTD: "bshuf_decompress_zstd"}.get(compression)
    library = _library()
    if name is None or library is None:
        return None
    try:
        function = getattr(ctypes.CDLL(str(library)), name)  # called without Python's lock
    except (OSError, AttributeError):
        return None  # another build of the plugin: HDF5 decodes
    function.restype = ctypes.c_int64
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t]
    return function
