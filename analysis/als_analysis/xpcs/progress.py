"""How far a run is, for people and machines; and how it is told to stop.

On a terminal a bar; otherwise one JSON line a second on stderr, {"progress": {"stage", "done", "of", "seconds"}}; and,
where asked for, a status file that is replaced whole: {"schema": "als-status/1", "state", "stage", "done", "of", …}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TextIO

from als_analysis.atomic import write_json

_EVERY_S = 1.0
_BAR = 30


class StopSignal:
    """Remembers SIGTERM or SIGUSR1 instead of dying of it; true once one came."""

    def __init__(self) -> None:
        self.number: int | None = None

    def install(self) -> StopSignal:
        """Take over both signals of this process."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def __bool__(self) -> bool:
        return self.number is not None


class Progress:
    """Reports the stages of one run; call it with (done, of) as often as you like."""

    def __init__(self, status: Path | None = None, stream: TextIO | None = None) -> None:
        self.status, self.stream = status, stream or sys.stderr
        self.stage_name = "start"
        self._began = self._last = time.monotonic()
        self._open_bar = False

    def stage(self, name: str) -> None:
        """What follows belongs to the stage `name`."""
        self.stage_name = name

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY_S:
            return
        self._last = now
        seconds = round(now - self._began, 1)
        if self.stream.isatty():
            filled = _BAR * done // max(of, 1)
            bar = "█" * filled + "·" * (_BAR - filled)
            print(f"\r{self.stage_name:<10} {bar} {done}/{of} {seconds:.0f} s", end="", file=self.stream, flush=True)
            self._open_bar = True
        else:
            line = {"progress": {"stage": self.stage_name, "done": done, "of": of, "seconds": seconds}}
            print(json.dumps(line), file=self.stream, flush=True)
        self.note("running", done, of)

    def note(self, state: str, done: int | None = None, of: int | None = None, message: str = "") -> None:
        """Replace the status file; `state` is running, done, failed or preempted."""
        if self._open_bar and state != "running":
            print(file=self.stream)
            self._open_bar = False
        if self.status is None:
            return
        write_json(
            self.status,
            {
                "schema": "als-status/1",
                "state": state,
                "stage": self.stage_name,
                "done": done,
                "of": of,
                "seconds": round(time.monotonic() - self._began, 1),
                "message": message,
                "pid": os.getpid(),
                "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            },
        )
