"""Runs hsi and htar, and tells an outage from a refusal from an answer.

htar's exit code is 70 for nearly everything, so what the tools say decides first, then the code (sysexits). A tool that
waits for ever, as they do during a maintenance, counts as an outage where a time limit is given.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from als_analysis.failure import Failure, Preempted, one_line
from als_analysis.hpss.errors import HpssRefused, HpssUnavailable, TryAgain

ANSWER_S = 900.0  # for questions about metadata; transfers have no limit but the job's
_GRACE_S = 5.0
_UNREACHABLE = (
    "Unable to setup communication to HPSS",
    "unable to open remote gateway server connection",
    "authentication/initialization failed",
    "Unable to authenticate user with HPSS",
    "HPSS_ECONN",
    "Connection refused",
    "Connection timed out",
)
_AGAIN = ("HPSS_EAGAIN", "HPSS_EBUSY", "maximum number of concurrent sessions")
_REFUSED = ("HPSS_EDQUOT", "HPSS_ENOSPACE", "HPSS_ENOSPC", "HPSS_EACCES", "HPSS_EPERM", "quota exceeded")


@dataclass(frozen=True)
class Answer:
    """How a tool ended: `code` (negative: killed by a signal) and all that it said."""

    tool: str
    code: int
    text: str

    @property
    def last_words(self) -> str:
        """What it said that matters most: its errors, else its last line."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip() and "HTAR FAILED" not in line]
        errors = [line for line in lines if line.startswith(("ERROR", "***", "Warning"))]
        return one_line("; ".join(errors[:3]) or (lines[-1] if lines else "no message"), 300)

    def trouble(self) -> Failure | None:
        """The failure to raise when HPSS could not be asked, or refuses; None when this is an answer."""
        said = f"{self.tool} (exit {self.code}): {self.last_words}"
        if self.code == 0:
            return None
        if self.code == 69 or any(text in self.text for text in _UNREACHABLE):
            return HpssUnavailable(f"HPSS is not available: {said}")
        if self.code == 75 or self.code < 0 or any(text in self.text for text in _AGAIN):
            return TryAgain(f"HPSS: try again: {said}")
        if self.code in (74, 77) or any(text in self.text for text in _REFUSED):
            return HpssRefused(f"HPSS refuses: {said}")
        return None


def run(words: Sequence[str], cwd: Path, limit_s: float | None = None) -> Answer:
    """Run a tool to its end; no shell. Raises HpssUnavailable after `limit_s`, HpssRefused when it is not there."""
    try:
        child = subprocess.Popen(
            list(words), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise HpssRefused(f"{words[0]}: cannot be run: {error}") from error
    try:
        out, _ = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        _end(child)
        raise HpssUnavailable(f"HPSS does not answer: {words[0]} was silent for {limit_s:.0f} s") from error
    except BaseException:  # a signal: the tool must not go on without us
        _end(child)
        raise
    return Answer(words[0], child.returncode, out.decode("utf-8", "surrogateescape"))


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def stop_on_signals() -> None:
    """SIGTERM and SIGUSR1 raise Preempted where the program is, so that the tool at work is ended too."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted(f"stopped by {signal.Signals(number).name}; run it again")

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
