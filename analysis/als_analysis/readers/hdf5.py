"""Frames from an HDF5 stack (N, H, W) of any numeric type and filter, found by a layout."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import RawFileError
from als_analysis.readers.chunks import Chunks, chunks_of
from als_analysis.readers.events import Events
from als_analysis.readers.frames import Quantity, Sums
from als_analysis.readers.layout import Field, Layout
from als_analysis.workers import Workers

if TYPE_CHECKING:
    import h5py

    from als_analysis.readers.blocks import Blocks

_LISTED = 12  # how many of the datasets that are there an error names


class Hdf5Frames:
    """An open HDF5 stack; see `FrameSource`. Raises `RawFileError` where the frames are not where the layout says."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.file = open_hdf5(path)
        try:
            self.dataset = dataset_at(self.file, layout.frames, path, f"frames (layout {layout.name})")
            if self.dataset.ndim != 3 or self.dataset.dtype.kind not in "uif" or 0 in self.dataset.shape:
                raise RawFileError(
                    f"{path}: {layout.frames}: expected numbers of shape (frames, height, width), "
                    f"there is {_describe(self.dataset)}"
                )
        except BaseException:
            self.file.close()
            raise
        n, height, width = self.dataset.shape
        self.shape: tuple[int, int, int] = (int(n), int(height), int(width))
        self.dtype: np.dtype[Any] = np.dtype(self.dataset.dtype).newbyteorder("=")
        self._chunks: Chunks | None = None
        self._descriptor: int | None = None

    def read(self, start: int, stop: int, step: int = 1) -> NDArray[Any]:
        try:
            frames = self.dataset[start:stop:step]
        except (OSError, RuntimeError) as error:
            raise RawFileError(f"{self.path}: {self.layout.frames}: frames {start} to {stop}: {error}") from error
        return np.ascontiguousarray(frames, dtype=self.dtype)

    def encoded_frame_bytes(self) -> int:
        chunks = self._direct()
        return int(self.dtype.itemsize * self.shape[1] * self.shape[2] if chunks is None else chunks.size.mean()) + 1

    def _direct(self) -> Chunks | None:
        if self._descriptor is None:
            self._chunks = chunks_of(self.dataset, self.path)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._chunks

    def fetch(self, frames: range) -> Any:
        self._direct()
        if self._chunks is None:
            return self.read(frames.start, frames.stop, frames.step)
        assert self._descriptor is not None
        return self._chunks.fetch(self._descriptor, frames)

    def decode(
        self, fetched: Any, out: NDArray[Any], workers: Workers, used: NDArray[np.uint64] | None = None
    ) -> Sums | None:
        if self._chunks is None:
            out[:] = fetched.reshape(len(fetched), -1)
            return None
        return self._chunks.decode(fetched, out, workers, used)

    def events(
        self, fetched: Any, edges: NDArray[np.int64], workers: Workers, used: NDArray[np.uint64]
    ) -> Events | None:
        return self._chunks.events(fetched, edges, workers, used) if self._chunks is not None else None

    def blocks(self) -> Blocks | None:
        chunks = self._direct()
        if chunks is None or self._descriptor is None:
            return None
        from als_analysis.readers.blocks import blocks_of

        return blocks_of(chunks, self._descriptor)

    def metadata(self) -> tuple[dict[str, Quantity], list[str]]:
        beside = self.layout.companion(self.path, self.layout.metadata_file)
        other = open_hdf5(beside) if beside is not None and beside.exists() else None
        try:
            return read_fields(self.layout.all_fields(), [self.file] if other is None else [other, self.file])
        finally:
            if other is not None:
                other.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; raises `RawFileError` that says whether it is missing, cut off or no HDF5."""
    import h5py
    import hdf5plugin  # noqa: F401  registers the detectors' filters with HDF5

    try:
        if not path.is_file():
            raise RawFileError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        text = str(error)
        what = "cut off (shorter than its own header says)" if "truncated file" in text else "not readable as HDF5"
        raise RawFileError(f"{path}: {what}: {text}") from error


def dataset_at(file: h5py.File, where: str, path: Path, what: str) -> h5py.Dataset:
    """The dataset at `where`; raises `RawFileError` that names the path looked for and what is there instead."""
    import h5py

    try:
        node = file[where]
    except KeyError as error:
        raise RawFileError(f"{path}: {where}: no {what} there; the file has {inventory(file)}") from error
    except (OSError, RuntimeError) as error:
        raise RawFileError(f"{path}: {where}: {what} cannot be read: {error}") from error
    if not isinstance(node, h5py.Dataset):
        raise RawFileError(
            f"{path}: {where}: {what} should be a dataset, this is a group; the file has {inventory(file)}"
        )
    return node


def inventory(file: h5py.File) -> str:
    """The datasets of a file in few words, for an error message; the largest first."""
    import h5py

    there: list[tuple[int, str]] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            there.append((-node.size if node.size else 0, f"/{name} {_describe(node)}"))

    try:
        file.visititems(visit)
    except (OSError, RuntimeError) as error:
        return f"an unreadable table of contents ({error})"
    there.sort()
    more = f" and {len(there) - _LISTED} more" if len(there) > _LISTED else ""
    return ", ".join(text for _, text in there[:_LISTED]) + more if there else "no datasets"


def _describe(dataset: h5py.Dataset) -> str:
    return f"{tuple(dataset.shape) if dataset.shape is not None else 'empty'} {dataset.dtype}"


def read_fields(fields: Mapping[str, Field], files: list[h5py.File]) -> tuple[dict[str, Quantity], list[str]]:
    """The fields, each from the first file that has it, and for what none has its name with the path."""
    found: dict[str, Quantity] = {}
    missing: list[str] = []
    for name, field in fields.items():
        quantity = next((q for q in (_quantity(file, field) for file in files) if q is not None), None)
        if quantity is None:
            missing.append(f"{name}: {field.path}")
        else:
            found[name] = quantity
    return found, missing


def _quantity(file: h5py.File, field: Field) -> Quantity | None:
    """One {value, unit}; None when it is not there. The file's own `units` attribute wins over the layout's."""
    if field.path is None:
        return {"value": field.value, "unit": field.unit}
    where, _, attribute = field.path.partition("@")
    try:
        node = file[where or "/"]
        raw = node.attrs[attribute] if attribute else node[()]
        unit = None if attribute else node.attrs.get("units")
    except (KeyError, TypeError):
        return None  # the caller lists it as missing, with its path
    except (OSError, RuntimeError) as error:
        raise RawFileError(f"{file.filename}: {field.path}: cannot be read: {error}") from error
    text_unit = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else unit
    return {"value": plain(raw), "unit": text_unit if isinstance(text_unit, str) and text_unit else field.unit}


def plain(raw: Any) -> Any:
    """An HDF5 value as JSON can hold it: text, number or a short list; NaN becomes None, a long array its mean."""
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "replace").rstrip("\0")
    if isinstance(raw, str):
        return raw
    array = np.asarray(raw)
    if array.dtype.kind in "OSU":
        values = [plain(item) for item in array.ravel()[:16].tolist()]
        return values[0] if array.size == 1 else values
    if array.dtype.kind not in "buif":
        return str(raw)
    if array.size == 1:
        value = array.ravel()[0].item()
        return None if isinstance(value, float) and not math.isfinite(value) else value
    if array.size <= 16:
        return [plain(item) for item in array.ravel()]
    finite = array[np.isfinite(array)]
    return float(finite.mean(dtype=np.float64)) if finite.size else None
