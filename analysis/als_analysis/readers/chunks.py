"""Frames straight from the chunks of an HDF5 file: read by offset, decoded in several threads at once.

HDF5 decodes one chunk at a time, under one lock. Where every frame is one chunk and its filter is one of those below,
the chunk's bytes are read with pread and decoded here: bitshuffle by the very library that hdf5plugin gives to HDF5,
deflate by zlib. Anything else is read through h5py.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import RawFileError
from als_analysis.readers.events import Events
from als_analysis.workers import Workers

if TYPE_CHECKING:
    import h5py

_DEFLATE, _SHUFFLE, _BITSHUFFLE = 1, 2, 32008
_BITSHUFFLE_LZ4, _BITSHUFFLE_ZSTD = 2, 3
_FULLEST = 12  # a frame with more than one event in so many pixels is not listed
_HEADER = 12  # bitshuffle: decoded bytes (u64, big-endian), bytes per block (u32, big-endian)


@dataclass(frozen=True)
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

    def read(self, descriptor: int, frame: int) -> bytes:
        """The encoded bytes of a frame; raises `RawFileError` where the file ends before them."""
        size = int(self.size[frame])
        data = os.pread(descriptor, size, int(self.offset[frame])) if size else b""
        if len(data) != size:
            raise RawFileError(f"{self.path}: frame {frame}: cut off: {len(data)} of {size} bytes are there")
        return data

    def decode(self, data: bytes, out: NDArray[Any], frame: int) -> None:
        """Decode one frame into `out` (pixels,), C-contiguous."""
        if not data:
            out[:] = self.fill
            return
        if self.bitshuffle is not None:
            block = int.from_bytes(data[8:_HEADER], "big") // self.dtype.itemsize
            decoded = int.from_bytes(data[:8], "big")
            if decoded != out.nbytes or block <= 0 or block % 8:
                raise RawFileError(f"{self.path}: frame {frame}: corrupted: {decoded} bytes in blocks of {block}")
            source = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
            used = self.bitshuffle(source + _HEADER, out.ctypes.data, self.pixels, self.dtype.itemsize, block)
            if used != len(data) - _HEADER:
                raise RawFileError(f"{self.path}: frame {frame}: corrupted: bitshuffle gave {used}")
            return
        try:
            plain = zlib.decompress(data, bufsize=out.nbytes) if _DEFLATE in self.filters else data
        except zlib.error as error:
            raise RawFileError(f"{self.path}: frame {frame}: corrupted: {error}") from error
        if len(plain) != out.nbytes:
            raise RawFileError(f"{self.path}: frame {frame}: corrupted: {len(plain)} of {out.nbytes} bytes")
        if _SHUFFLE in self.filters:
            planes = np.frombuffer(plain, dtype=np.uint8).reshape(self.dtype.itemsize, self.pixels)
            out.view(np.uint8).reshape(self.pixels, self.dtype.itemsize)[:] = planes.T
        else:
            out[:] = np.frombuffer(plain, dtype=self.dtype)

    def events(self, fetched: list[tuple[int, bytes]], workers: Workers) -> Events | None:
        """The events of fetched frames without decoding them to pixels; None where that is not possible."""
        if self.lz4 is None or self.dtype.kind not in "ui" or not all(data for _, data in fetched):
            return None
        from als_analysis.readers.bitplanes import list_planes

        room, function = self.pixels // _FULLEST + 64, self.lz4
        data = np.frombuffer(b"".join(data for _, data in fetched), dtype=np.uint8)
        starts = np.concatenate([[0], np.cumsum([len(data) for _, data in fetched])])
        pixel = np.empty(len(fetched) * room, dtype=np.int32)
        count = np.empty(len(fetched) * room, dtype=self.dtype)
        found = np.empty(len(fetched), dtype=np.int64)
        item = self.dtype.itemsize
        workers.share(
            lambda a, b: list_planes(function, data, starts, a, b, self.pixels, item, room, pixel, count, found),
            len(fetched),
        )
        if (found < 0).any():
            return None  # too full, or not what it should be: decoding says which
        parts = [slice(t * room, t * room + int(n)) for t, n in enumerate(found)]
        return Events(
            np.concatenate([[0], np.cumsum(found)]),
            np.concatenate([pixel[p] for p in parts]),
            np.concatenate([count[p] for p in parts]),
        )


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
        dataset.id.chunk_iter(note)
    except (OSError, RuntimeError) as error:
        raise RawFileError(f"{path}: {dataset.name}: its chunk index cannot be read: {error}") from error
    if skipped:
        return None  # a filter was left out for some chunk: HDF5 knows what to do
    lz4 = _lz4_address() if function is not None and int(filters[0][2][4]) == _BITSHUFFLE_LZ4 else None
    return Chunks(path, offset, size, dataset.dtype, height * width, codes, dataset.fillvalue, function, lz4)


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
