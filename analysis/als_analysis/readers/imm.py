"""Frames from an IMM file of APS 8-ID: per frame a header of 1024 bytes, then a dense or a sparse payload.

Little-endian. Offsets in the header: 4 compression (non-zero is sparse), 108 rows, 112 columns, 116 bytes per pixel,
136 preset and 128 elapsed seconds (f64), 152 dlen (u32). Dense payload: dlen x uint16, counts above 32767 included.
Sparse: dlen x int32 flat index, then dlen x int16 counts.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import RawFileError
from als_analysis.readers.events import Events, in_words
from als_analysis.readers.frames import Quantity, Sums
from als_analysis.readers.hdf5 import open_hdf5, read_fields
from als_analysis.readers.layout import Layout
from als_analysis.workers import Workers

HEADER = 1024


class ImmFrames:
    """An open IMM file; see `FrameSource`. Raises `RawFileError` for what is no IMM file, or is cut off."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.dtype: np.dtype[Any] = np.dtype(np.uint16)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RawFileError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._index()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _index(self) -> None:
        """Walk over all headers: frames of a sparse file differ in length."""
        size = os.fstat(self._descriptor).st_size
        offsets: list[int] = []
        lengths: list[int] = []
        at = 0
        rows = columns = 0
        while at < size:
            frame = len(offsets)
            header = os.pread(self._descriptor, HEADER, at)
            if len(header) < HEADER:
                raise RawFileError(
                    f"{self.path}: frame {frame}: cut off: {len(header)} of {HEADER} bytes of its header"
                )
            compression, height, width = (struct.unpack_from("<i", header, where)[0] for where in (4, 108, 112))
            (length,) = struct.unpack_from("<I", header, 152)
            sparse = compression != 0
            if frame == 0:
                rows, columns, self.sparse = height, width, sparse
                if not (0 < rows <= 1 << 16 and 0 < columns <= 1 << 16):
                    raise RawFileError(f"{self.path}: no IMM file: its first header says {rows} x {columns} pixels")
            if (height, width, sparse) != (rows, columns, self.sparse) or length > rows * columns:
                raise RawFileError(f"{self.path}: frame {frame}: its header does not fit the first one's")
            if not sparse and length != rows * columns:
                raise RawFileError(f"{self.path}: frame {frame}: {length} values for {rows} x {columns} pixels")
            end = at + HEADER + length * (6 if sparse else 2)
            if end > size:
                raise RawFileError(f"{self.path}: frame {frame}: cut off: {size - at} of {end - at} bytes are there")
            offsets.append(at + HEADER)
            lengths.append(length)
            at = end
        if not offsets:
            raise RawFileError(f"{self.path}: empty")
        self.shape: tuple[int, int, int] = (len(offsets), rows, columns)
        self._offsets, self._lengths = np.array(offsets), np.array(lengths)
        self.occupancy = float(self._lengths.mean() / (rows * columns)) if self.sparse else None

    def read(self, start: int, stop: int, step: int = 1) -> NDArray[Any]:
        frames = range(start, min(stop, self.shape[0]), step)
        out = np.empty((len(frames), self.shape[1] * self.shape[2]), dtype=self.dtype)
        for row, item in enumerate(self.fetch(frames)):
            self._decode_one(item, out[row])
        return out.reshape(len(frames), *self.shape[1:])

    def encoded_frame_bytes(self) -> int:
        return int(self._lengths.mean() * (6 if self.sparse else 2)) + 1

    def fetch(self, frames: range) -> Any:
        fetched = []
        for frame in frames:
            size = int(self._lengths[frame]) * (6 if self.sparse else 2)
            data = os.pread(self._descriptor, size, int(self._offsets[frame]))
            if len(data) != size:
                raise RawFileError(f"{self.path}: frame {frame}: cut off: {len(data)} of {size} bytes are there")
            fetched.append((frame, data))
        return fetched

    def events(
        self, fetched: Any, edges: NDArray[np.int64], workers: Workers, used: NDArray[np.uint64]
    ) -> Events | None:
        if not self.sparse:
            return None
        frames = [self._events_of(data, frame) for frame, data in fetched]
        pixel, count = (np.concatenate([frame[part] for frame in frames]) for part in (0, 1))
        starts = np.cumsum([0, *(len(frame[0]) for frame in frames)])
        return in_words(starts, pixel, count, self.shape[1] * self.shape[2], edges, used, workers)

    def blocks(self) -> None:
        return None

    def _events_of(self, data: bytes, frame: int) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """One frame's pixels, ascending, and their counts."""
        length = len(data) // 6
        index = np.frombuffer(data, dtype="<i4", count=length)
        count = np.frombuffer(data, dtype="<u2", offset=4 * length, count=length)
        if (index[1:] <= index[:-1]).any():
            order = np.argsort(index, kind="stable")
            index, count = index[order], count[order]
        if length and (index[0] < 0 or index[-1] >= self.shape[1] * self.shape[2]):
            raise RawFileError(f"{self.path}: frame {frame}: corrupted: a pixel index beyond the frame")
        twice = index[1:][index[1:] == index[:-1]]
        if len(twice):
            raise RawFileError(f"{self.path}: frame {frame}: corrupted: it has pixel {twice[0]} twice")
        return index, count

    def _decode_one(self, item: tuple[int, bytes], out: NDArray[Any]) -> None:
        frame, data = item
        if self.sparse:
            index, counts = self._events_of(data, frame)
            out[:] = 0
            out[index] = counts
        else:
            out[:] = np.frombuffer(data, dtype="<u2")

    def decode(
        self, fetched: Any, out: NDArray[Any], workers: Workers, used: NDArray[np.uint64] | None = None
    ) -> Sums | None:
        def work(begin: int, end: int) -> None:
            for row in range(begin, end):
                self._decode_one(fetched[row], out[row])

        workers.share(work, len(fetched))
        return None

    def metadata(self) -> tuple[dict[str, Quantity], list[str]]:
        beside = self.layout.companion(self.path, self.layout.metadata_file)
        if beside is None or not beside.exists():
            fields = self.layout.all_fields()
            found: dict[str, Quantity] = {
                n: {"value": f.value, "unit": f.unit} for n, f in fields.items() if f.path is None
            }
            return found, [f"{name}: {field.path}" for name, field in fields.items() if field.path is not None]
        with open_hdf5(beside) as file:
            return read_fields(self.layout.all_fields(), [file])

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
