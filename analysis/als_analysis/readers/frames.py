"""A source of frames: what every reader gives to the analysis, whatever the file's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import BadArguments, MetadataMissing
from als_analysis.readers.events import Events
from als_analysis.readers.layout import Layout
from als_analysis.workers import Workers

if TYPE_CHECKING:
    from als_analysis.readers.blocks import Blocks

Quantity = dict[str, Any]  # {"value": …, "unit": … or None}

# how much of the base unit one of each is; what a role is measured in is the base unit
_SCALE = {
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "eV": 1.0,
    "keV": 1e3,
    "m": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "um": 1e-6,
    "µm": 1e-6,
    "nm": 1e-9,
    "pixel": 1.0,
    "px": 1.0,
}


@dataclass(frozen=True)
class Sums:
    """Of a block of whole-number frames: `frames` (n,) the sum over the used pixels, `pixels` (H * W,) over frames."""

    frames: NDArray[np.int64]
    pixels: NDArray[np.int64]


class FrameSource(Protocol):
    """An open raw file: `shape` is (frames, height, width); used as a context manager."""

    path: Path
    layout: Layout
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int, step: int = 1) -> NDArray[Any]:
        """Frames start, start + step, … below stop, as (n, H, W) of `dtype`; raises `RawFileError`."""
        ...

    def encoded_frame_bytes(self) -> int:
        """About how many bytes a fetched frame takes before it is decoded."""
        ...

    def fetch(self, frames: range) -> Any:
        """Read what `decode` needs for these frames, from one thread at a time; raises `RawFileError`.

        What it gives is valid until the next but one call.
        """
        ...

    def decode(
        self, fetched: Any, out: NDArray[Any], workers: Workers, used: NDArray[np.uint64] | None = None
    ) -> Sums | None:
        """Decode fetched frames into `out` (n, H * W) of `dtype`, in several threads; raises `RawFileError`.

        With `used` (a bit for each pixel, the lowest first) also their sums, where these cost next to nothing.
        """
        ...

    def events(
        self, fetched: Any, edges: NDArray[np.int64], workers: Workers, used: NDArray[np.uint64]
    ) -> Events | None:
        """The events of fetched frames where the file gives them cheaply, otherwise None; raises `RawFileError`.

        They are valid until the next call. `edges` are those of the slices, the first one 0; `used` has a bit for each
        pixel, the lowest first.
        """
        ...

    def blocks(self) -> Blocks | None:
        """The frames as blocks of pixels that can be read each by itself, or None where the file has none."""
        ...

    def metadata(self) -> tuple[dict[str, Quantity], list[str]]:
        """Metadata by the layout's names, and for what is missing the names with the path that was looked for."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_frames(path: Path, layout: Layout) -> FrameSource:
    """Open a raw file by its layout; raises `RawFileError` (missing, cut off, no frames there) or `BadArguments`."""
    if layout.reader == "hdf5":
        from als_analysis.readers.hdf5 import Hdf5Frames

        return Hdf5Frames(path, layout)
    if layout.reader == "imm":
        from als_analysis.readers.imm import ImmFrames

        return ImmFrames(path, layout)
    raise BadArguments(f"{path}: layout {layout.name} names the reader {layout.reader!r}, which cannot give frames")


def in_base_unit(metadata: dict[str, Quantity], name: str, source: FrameSource) -> float:
    """The number `name` in s, eV, m or pixel, whichever it is; raises `MetadataMissing` with the path looked for."""
    quantity = metadata.get(name)
    field = source.layout.frame_time if name == "frame_time" else source.layout.metadata.get(name)
    where = f"at {field.path}" if field is not None and field.path else "anywhere: the layout does not name it"
    if quantity is None or not isinstance(quantity["value"], (int, float)):
        raise MetadataMissing(f"{source.path}: metadata {name} was not found {where} (layout {source.layout.name})")
    unit = quantity["unit"]
    if unit is not None and unit not in _SCALE:
        raise MetadataMissing(f"{source.path}: metadata {name} {where} has the unit {unit!r}, which is not known")
    return float(quantity["value"]) * (_SCALE[unit] if unit is not None else 1.0)
