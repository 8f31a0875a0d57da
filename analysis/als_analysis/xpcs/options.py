"""What a correlation is asked to do, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from als_analysis.failure import BadArguments

KINDS = ("multitau", "twotime", "both")
SMOOTHINGS = ("none", "sqmap", "dqmap")


@dataclass(frozen=True)
class Options:
    """How to correlate.

    Frames begin, begin + stride, … below end (None: all), each `avg` of them in a row averaged: the processed frames.
    `dq` names the dynamic bins of the two-time maps (from 1; empty: all); `smooth` what two-time frames are divided by,
    besides their mean over each static bin. `partials` cuts the frames into so many parts with a g2 each. `memory` is
    a limit in bytes (None: what it takes; for a detector of 512 x 512 about 0.35 GB, or 0.7 GB frame by frame).
    """

    kind: str = "multitau"
    begin: int = 0
    end: int | None = None
    stride: int = 1
    avg: int = 1
    dq: tuple[int, ...] = ()
    smooth: str = "sqmap"
    frame_norm: bool = True
    save_g2: bool = False
    partials: int = 2
    sparse: str = "auto"
    device: str = "auto"
    memory: int | None = None

    def processed(self, frames: int) -> int:
        """How many processed frames a file of `frames` gives; raises `BadArguments` if fewer than 2."""
        end = frames if self.end is None else self.end
        if self.begin < 0 or self.stride < 1 or self.avg < 1 or end > frames or end <= self.begin:
            raise BadArguments(
                f"frames {self.begin} to {end}, every {self.stride}, mean of {self.avg}: the file has {frames} frames"
            )
        count = -(-(end - self.begin) // self.stride) // self.avg
        if count < 2:
            raise BadArguments(f"frames {self.begin} to {end} leave {count} processed frames; at least 2 are needed")
        if self.partials < 1 or self.partials > count:
            raise BadArguments(f"--partials {self.partials}: expected 1 to {count}, the number of processed frames")
        return count

    def raw_frames(self, start: int, stop: int) -> range:
        """The file's frames that the processed frames start … stop are made of."""
        step = self.stride * self.avg
        first = self.begin + start * step
        return range(first, first + ((stop - start) * self.avg - 1) * self.stride + 1, self.stride)


def parse_bins(text: str) -> tuple[int, ...]:
    """Bins as "1,2,5-7" gives them; raises `BadArguments`."""
    found: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= 10_000_000:
            raise BadArguments(f"--dq {text!r}: {part!r} is no bin or range of bins, counted from 1")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def parse_bytes(text: str) -> int:
    """A memory limit such as 800M or 2G (binary units); raises `BadArguments`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise BadArguments(f"--memory {text!r}: expected a number with K, M, G or T")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
