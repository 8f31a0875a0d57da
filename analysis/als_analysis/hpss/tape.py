"""Single files on tape, by hsi. Only plain names ever reach its command line: see `request.TAPE_NAME`.

Local files are named by a bare word in the working directory, which may be a link to the real one, so that no file name
of a user is ever parsed by hsi.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from als_analysis.hpss.commands import ANSWER_S, Answer, run
from als_analysis.hpss.errors import ExistsOtherwise, HpssRefused, HpssUnavailable, NotWhole

_ABSENT = ("HPSS_ENOENT", "No matching names located")
_HASH = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")


@dataclass(frozen=True)
class Entry:
    """A file on tape: `tape` and `position` (section, offset) are None while it is only in the disk cache."""

    path: str
    bytes: int
    tape: str | None
    position: tuple[int, int] | None


class Tape:
    """hsi, run in one working directory."""

    def __init__(self, work: Path, answer_s: float = ANSWER_S) -> None:
        self.work, self.answer_s = work, answer_s

    def _hsi(self, command: str, transfer: bool = False) -> Answer:
        """One command; raises when HPSS could not be asked. -P: everything on stdout, in plain lines."""
        answer = run(["hsi", "-P", "-q", command], self.work, None if transfer else self.answer_s)
        if (trouble := answer.trouble()) is not None:
            raise trouble
        return answer

    def entries(self, start: str) -> dict[str, Entry]:
        """Every file whose path begins so; none only where HPSS says that there is none. No answer is never "none"."""
        answer = self._hsi(f"ls -NP {start}*")
        found: dict[str, Entry] = {}
        for line in answer.text.splitlines():
            fields = line.split("\t")
            if fields[0] == "FILE" and len(fields) >= 6 and fields[1].startswith(start) and fields[2].strip().isdigit():
                found[fields[1]] = Entry(fields[1], int(fields[2]), *_place(fields[5], fields[4]))
        absent = answer.code == 64 and any(text in answer.text for text in _ABSENT)
        if absent != bool(found) and (absent or answer.code == 0):
            return found
        said = f"hsi (exit {answer.code}): {answer.last_words}"
        raise HpssUnavailable(f"{start}: HPSS does not say whether it is there: {said}")

    def store(self, local: str, path: str, size: int, sha256: str) -> None:
        """Put a file there, read its SHA-256 back from HPSS, and only then give it its name. `path` must be free."""
        beside = f"{path}.part-{secrets.token_hex(4)}"
        answer = self._hsi(f"cput -P {local} : {beside}", transfer=True)
        if answer.code != 0:
            raise HpssRefused(f"{path}: did not arrive on tape: hsi cput (exit {answer.code}): {answer.last_words}")
        if (found := self.make_hash(beside)) != sha256:
            raise NotWhole(f"{path}: HPSS reads back SHA-256 {found}, the file on disk has {sha256}")
        there = self.entries(path)  # for mv would replace what is there
        if path in there or beside not in there or there[beside].bytes != size:
            raise ExistsOtherwise(f"{path}: exists on tape, or is not what was just put there")
        answer = self._hsi(f"mv {beside} {path}")
        if answer.code != 0:
            raise HpssRefused(f"{path}: cannot be given its name: hsi mv (exit {answer.code}): {answer.last_words}")

    def fetch(self, path: str, local: str) -> None:
        """Get a file into the working directory, under a name that is free there."""
        answer = self._hsi(f"get {local} : {path}", transfer=True)
        if answer.code != 0 or not (self.work / local).is_file():
            raise NotWhole(f"{path}: cannot be read from tape: hsi: {answer.last_words}")

    def make_hash(self, path: str) -> str:
        """Have HPSS read the file and store its SHA-256; returns it."""
        answer = self._hsi(f"hashcreate -H sha256 {path}", transfer=True)
        return self._hash(answer, path, "hashcreate")

    def listed_hash(self, path: str) -> str:
        """The SHA-256 that HPSS has stored for the file."""
        return self._hash(self._hsi(f"hashlist {path}"), path, "hashlist")

    def _hash(self, answer: Answer, path: str, verb: str) -> str:
        for line in answer.text.splitlines():
            if path in line.split() and "sha256" in line and (found := _HASH.search(line)) is not None:
                return found[1]
        raise NotWhole(f"{path}: no SHA-256 from hsi {verb}: {answer.last_words}")

    def verify_hash(self, path: str) -> None:
        """Have HPSS read the file again and compare; raises NotWhole where it differs."""
        answer = self._hsi(f"hashverify {path}", transfer=True)
        if answer.code != 0 or f"{path}: (sha256) OK" not in answer.text.splitlines():
            raise NotWhole(f"{path}: hsi hashverify: {answer.last_words}")


def _place(tape: str, position: str) -> tuple[str | None, tuple[int, int] | None]:
    section, plus, offset = position.strip().partition("+")
    if not tape.strip() or not plus or not section.isdigit() or not offset.isdigit():
        return None, None
    return tape.strip(), (int(section), int(offset))
