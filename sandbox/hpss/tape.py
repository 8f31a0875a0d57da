"""The tape system behind the stand-ins: a tree of files, each on a tape at a position, with its checksum or none.

Settings (`configure(box, …)`): member_limit (bytes of one htar member), mount_s (how long a tape takes to be mounted),
tape_bytes (when the next tape begins), quota_bytes (or None), sessions (at once), down (a switch).

Faults, service "hpss"; "path" is a glob on the HPSS path, "route" one on what is run ("hsi cput", "htar -c"):

    down, tempfail   the command ends as when HPSS is away / asks to be tried again; "when": "after" does it first, and
                     the answer is lost
    error            the same with your `code` and `text`
    sleep            it waits `delay` seconds first, as during a maintenance
    quota            a write ends half-way
    bit_rot          one byte of the file differs from now on (`at`: its offset; default the middle, and of a tar that
                     of its largest member). Taken when the file was written, or before it is read
    truncate         the file's second half is gone; taken like bit_rot
    omit_members     htar -c leaves out `members` (names, or how many; default 1) and says SUCCESSFUL; exit `exit` (70)
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from sandbox.box import Box, Doc

EX_USAGE, EX_UNAVAILABLE, EX_SOFTWARE, EX_OSFILE, EX_IOERR, EX_TEMPFAIL = 64, 69, 70, 72, 74, 75
MEMBER_LIMIT = 8**12 - 1
HOME = "/home/a/als"
BLOCK = 1 << 20
DEFAULTS: Doc = {
    "member_limit": MEMBER_LIMIT, "mount_s": 0.02, "tape_bytes": 10 << 30, "quota_bytes": None, "sessions": 15,
    "down": False,
}  # fmt: skip


class Failed(Exception):
    """A command ends with this exit code, after this text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Quota(Exception):
    """There is no room for more on tape."""


def configure(box: Box, **changes: object) -> None:
    """Change settings, for instance `configure(box, down=True)`."""
    with box.transaction() as docs:
        docs.put("hpss_config", "config", {**(docs.get("hpss_config", "config") or {}), **changes})


def settings(box: Box) -> Doc:
    return {**DEFAULTS, **(box.get("hpss_config", "config") or {})}


def hpss_path(box: Box, path: str) -> Path:
    """Where the file of this absolute HPSS path lies on this machine."""
    return box.dir / "nersc" / "hpss" / path.lstrip("/")


class Tape:
    """HPSS as one command sees it. `route` names the command, for the faults."""

    def __init__(self, directory: str) -> None:
        self.box = Box(directory)
        self.settings = settings(self.box)
        self.route = ""

    # names

    def absolute(self, path: str, cwd: str = HOME) -> str:
        """The absolute HPSS path. Raises Failed for what HPSS does not take as a name."""
        if not path or any(not " " <= c <= "~" for c in path):
            raise Failed(EX_USAGE, f"*** {self.route}: invalid character in path {path!r}")
        return os.path.normpath(path if path.startswith("/") else f"{cwd}/{path}").replace("//", "/")

    def local(self, path: str) -> Path:
        return hpss_path(self.box, path)

    # faults

    def fault(self, kind: str, path: str | None = None) -> Doc | None:
        return self.box.take_fault(self._matches((kind,), path))

    def _matches(self, kinds: tuple[str, ...], path: str | None) -> Callable[[Doc], bool]:
        def matches(fault: Doc) -> bool:
            return (
                fault.get("service") in ("hpss", "*")
                and fault.get("kind") in kinds
                and fnmatchcase(self.route, str(fault.get("route", "*")))
                and ("path" not in fault or (path is not None and fnmatchcase(path, str(fault["path"]))))
            )

        return matches

    @contextmanager
    def command(self, route: str, path: str | None = None) -> Iterator[None]:
        """One command on one path: the faults that end it, before or after it is done."""
        self.route = route
        if fault := self.fault("sleep", path):
            time.sleep(float(fault.get("delay", 1)))
        if self.settings["down"]:
            raise Failed(EX_UNAVAILABLE, "")
        fault = self.box.take_fault(self._matches(("down", "tempfail", "error"), path))
        if fault is None:
            yield
            return
        time.sleep(float(fault.get("delay", 0)))
        if fault.get("when") == "after":
            try:
                yield
            except Failed:
                pass  # whatever it would have said is lost
        if fault["kind"] == "tempfail":
            raise Failed(EX_TEMPFAIL, f"*** {route}: temporary failure, try again later [-11: HPSS_EAGAIN]")
        if fault["kind"] == "error":
            raise Failed(int(fault.get("code", EX_SOFTWARE)), str(fault.get("text", f"*** {route}: error")))
        raise Failed(EX_UNAVAILABLE, "")

    @contextmanager
    def session(self) -> Iterator[None]:
        """One of the user's sessions; they end with the process, however it ends."""
        directory = self.box.dir / "nersc" / ".hpss_sessions"
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(int(self.settings["sessions"])):
            with (directory / str(number)).open("w") as slot:
                try:
                    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        raise Failed(EX_TEMPFAIL, "*** HSI: maximum number of concurrent sessions reached [-11: HPSS_EAGAIN]")

    # files

    def about(self, path: str) -> Doc:
        """{"tape", "section", "hash": {"algorithm", "digest"} | None, "created"} of a file."""
        return self.box.get("hpss_file", path) or {"tape": "", "section": 0, "hash": None, "created": 0.0}

    def room(self) -> int | None:
        """How many bytes may still be written; None without a quota."""
        quota = self.settings["quota_bytes"]
        if quota is None:
            return None
        root = self.box.dir / "nersc" / "hpss"
        return max(0, int(quota) - sum(p.stat().st_size for p in root.rglob("*") if p.is_file()))

    @contextmanager
    def writing(self, path: str) -> Iterator[Callable[[bytes], object]]:
        """Write a file in place, as HPSS does; give `write`. Raises Quota. What is not finished stays, as it is."""
        room = self.room()
        short = self.fault("quota", path) is not None
        target = self.local(path)
        self.forget(path)
        with target.open("wb") as file:

            def write(data: bytes) -> None:
                nonlocal room
                if short or (room is not None and len(data) > room):
                    file.write(data[: len(data) // 2 if room is None else room])
                    raise Quota
                room = None if room is None else room - len(data)
                file.write(data)

            yield write

    def written(self, path: str, digest: Doc | None = None) -> None:
        """Note that a file is whole: it gets its place on a tape."""
        size = self.local(path).stat().st_size
        with self.box.transaction() as docs:
            last = docs.get("hpss_tape", "next") or {"number": 1, "section": 0, "used": 0}
            if last["used"] and last["used"] + size > int(self.settings["tape_bytes"]):
                last = {"number": last["number"] + 1, "section": 0, "used": 0}
            last = {**last, "section": last["section"] + 1, "used": last["used"] + size}
            docs.put("hpss_tape", "next", last)
            about = {"tape": f"AG{last['number']:04d}00", "section": last["section"], "hash": digest}
            docs.put("hpss_file", path, {**about, "created": time.time()})

    def spoil(self, path: str) -> None:
        """Play bit_rot and truncate on a file that was just written, or is about to be read."""
        target = self.local(path)
        size = target.stat().st_size if target.is_file() else 0
        if not size:
            return
        if fault := self.fault("bit_rot", path):
            at = int(fault.get("at", self._middle(path, size)))
            with target.open("r+b") as file:
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 0x10]))
        if fault := self.fault("truncate", path):
            os.truncate(target, int(fault.get("to", size // 2)))

    def _middle(self, path: str, size: int) -> int:
        try:
            lines = self.local(path + ".idx").read_text().splitlines()[1:]
        except FileNotFoundError:
            return size // 2
        largest = max((json.loads(line) for line in lines), key=lambda entry: int(entry["size"]))
        return int(largest["offset"]) + int(largest["size"]) // 2

    def reading(self, path: str) -> None:
        """Before a file's content is read: its tape is mounted, and it may have rotted."""
        tape = self.about(path)["tape"]
        with self.box.transaction() as docs:
            mounted = docs.get("hpss_tape", "mounted") or {"tape": "", "mounts": 0}
            if tape and mounted["tape"] != tape:
                docs.put("hpss_tape", "mounted", {"tape": tape, "mounts": mounted["mounts"] + 1})
        if tape and mounted["tape"] != tape:
            time.sleep(float(self.settings["mount_s"]))
        self.spoil(path)

    def forget(self, path: str) -> None:
        with self.box.transaction() as docs:
            docs.delete("hpss_file", path)

    def moved(self, old: str, new: str) -> None:
        with self.box.transaction() as docs:
            about = docs.get("hpss_file", old)
            docs.delete("hpss_file", old)
            if about is not None:
                docs.put("hpss_file", new, about)
