"""Many files on tape as one, by htar. Names go to it in a list file, one on a line, never on its command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from als_analysis.hpss.commands import ANSWER_S, Answer, run
from als_analysis.hpss.errors import NotWhole

SUCCESS = "HTAR: HTAR SUCCESSFUL"
_LINE = re.compile(
    r"HTAR: (?P<mode>[-dlbcps][-rwxsStT]{9})(?P<deleted> D)?\s+\S+/\S+\s+(?P<size>\d+)\s+"
    r"\d{4}-\d\d-\d\d\s+\d\d:\d\d  (?P<name>.+)"
)
_OWN = re.compile(r".*HTAR_CF_CHK_\d+_\d+")  # htar's consistency file, the last member of every archive


def is_own(name: str) -> bool:
    """Is this the name of a file of htar's own?"""
    return _OWN.fullmatch(name) is not None


class Tar:
    """htar, with its list file in the working directory."""

    def __init__(self, work: Path, answer_s: float = ANSWER_S) -> None:
        self.work, self.answer_s = work, answer_s

    def _htar(self, words: Sequence[str], cwd: Path, limit_s: float | None = None) -> Answer:
        answer = run(["htar", *words], cwd, limit_s)
        if (trouble := answer.trouble()) is not None:
            raise trouble
        return answer

    def _list(self, names: Sequence[str]) -> str:
        path = self.work / "members.list"
        path.write_bytes(b"".join(name.encode() + b"\n" for name in names))
        return str(path)

    def create(self, archive: str, names: Sequence[str], root: Path, follow_links: bool) -> None:
        """Make the archive of the files `names` below `root`. It must not exist: htar overwrites without a word.

        Exit code 0 *and* its word of success are needed; that the members are there is for `members` to say.
        """
        words = ["-c", "-P", *(["-h"] if follow_links else []), "-Hcrc", "-L", self._list(names), "-f", archive]
        answer = self._htar(words, root)
        if answer.code != 0 or SUCCESS not in answer.text:
            raise NotWhole(f"{archive}: htar -c (exit {answer.code}): {answer.last_words}")

    def members(self, archive: str) -> list[tuple[str, int]]:
        """(name, bytes) of each member, from the index, htar's own left out."""
        answer = self._htar(["-t", "-f", archive], self.work, self.answer_s)
        if answer.code != 0 or SUCCESS not in answer.text:
            raise NotWhole(f"{archive}: htar -t (exit {answer.code}): {answer.last_words}")
        found = [match for line in answer.text.split("\n") if (match := _LINE.fullmatch(line)) is not None]
        return [
            (match["name"], int(match["size"]))
            for match in found
            if match["mode"][0] != "d" and match["deleted"] is None and not is_own(match["name"])
        ]

    def check(self, archive: str) -> None:
        """Have htar read the archive: headers against the index, content against the stored CRCs."""
        answer = self._htar(["-K", "-Hverify=info,crc", "-f", archive], self.work)
        if answer.code != 0 or SUCCESS not in answer.text:
            raise NotWhole(f"{archive}: htar -K (exit {answer.code}): {answer.last_words}")

    def extract(self, archive: str, names: Sequence[str], into: Path) -> str | None:
        """Extract members into an empty directory; says what htar found wrong, or None. It names no missing member."""
        answer = self._htar(["-x", "-Hverify=crc", "-L", self._list(names), "-f", archive], into)
        return (
            None if answer.code == 0 and SUCCESS in answer.text else f"htar (exit {answer.code}): {answer.last_words}"
        )
