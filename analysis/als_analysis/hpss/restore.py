"""Brings members of an archive back to a directory. A file that is there with other content is never written over."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from als_analysis.failure import BadArguments, OutputError
from als_analysis.hpss import manifest as manifests
from als_analysis.hpss.errors import ExistsOtherwise, NotWhole
from als_analysis.hpss.manifest import Manifest
from als_analysis.hpss.members import Member
from als_analysis.hpss.request import Request
from als_analysis.hpss.sources import file_sha256
from als_analysis.hpss.tape import Entry, Tape
from als_analysis.hpss.tar import Tar

REPORT = "als-archive-restore/1"


def restore(request: Request, tape: Tape) -> dict[str, Any]:
    """Restore all members or those named; returns the report, whose "problems" name the members that are not whole."""
    assert request.destination is not None
    destination = request.destination
    there = tape.entries(request.archive)
    if manifests.path_of(request.archive) not in there:
        raise NotWhole(f"{manifests.path_of(request.archive)}: is missing on tape")
    manifest = manifests.read(tape, request.archive)
    members = _chosen(manifest, request.names)
    kept = [member for member in members if _is_there(destination, member)]
    wanted = [member for member in members if member not in kept]
    problems: list[dict[str, str]] = []
    if wanted:
        with tempfile.TemporaryDirectory(prefix=".als-restore-", dir=_made(destination)) as name:
            staging = Path(name)
            fetched = _fetch(manifest.archive, wanted, there, staging, tape)
            for member in wanted:
                reason = fetched.get(member.name) or _wrong(staging / "files" / member.path.lstrip("/"), member)
                if reason is None:
                    _place(staging / "files" / member.path.lstrip("/"), destination / member.name)
                else:
                    problems.append({"name": member.name, "reason": reason})
    bad = {problem["name"] for problem in problems}
    states = {member.name: "kept" for member in kept}
    return {
        "schema": REPORT,
        "archive": request.archive,
        "destination": str(destination),
        "files": [
            {"name": m.name, "bytes": m.bytes, "sha256": m.sha256, "state": states.get(m.name, "restored")}
            for m in members
            if m.name not in bad
        ],
        "problems": problems,
        "at": manifests.now(),
    }


def _chosen(manifest: Manifest, names: tuple[str, ...] | None) -> list[Member]:
    if names is None:
        return list(manifest.members)
    known = {member.name: member for member in manifest.members}
    for name in names:
        if name not in known:
            raise BadArguments(f"request: field names: {manifest.archive} has no member {name!r}")
    return [known[name] for name in dict.fromkeys(names)]


def _is_there(destination: Path, member: Member) -> bool:
    """Is the member at its place already? Raises ExistsOtherwise when something else is."""
    target = destination / member.name
    if not target.parent.resolve().is_relative_to(destination.resolve()):
        raise ExistsOtherwise(f"{target}: a link leads out of {destination}; nothing was touched")
    if not os.path.lexists(target):
        return False
    if target.is_symlink() or not target.is_file() or _wrong(target, member) is not None:
        raise ExistsOtherwise(f"{target}: exists with other content; nothing was touched")
    return True


def _wrong(path: Path, member: Member) -> str | None:
    if path.is_symlink() or not path.is_file():
        return "did not come back from tape"
    if path.stat().st_size != member.bytes:
        return f"came back with {path.stat().st_size} bytes, stored were {member.bytes}"
    sha256 = file_sha256(path)
    return None if sha256 == member.sha256 else f"came back with SHA-256 {sha256}, stored was {member.sha256}"


def _fetch(archive: str, members: list[Member], there: dict[str, Entry], staging: Path, tape: Tape) -> dict[str, str]:
    """Get the members below staging/files, single files in the order of the tapes; says by name what was wrong."""
    files = staging / "files"
    files.mkdir()
    wrong: dict[str, str] = {}
    by_htar = [member.path for member in members if member.how == "htar"]
    if by_htar:
        Tar(staging, tape.answer_s).extract(archive, by_htar, files)  # what is wrong is seen member by member
    ordered: list[tuple[tuple[str, tuple[int, int]], Member]] = []
    for member in members:
        if member.how == "cput":
            entry = there.get(member.path)
            if entry is None:
                wrong[member.name] = f"{member.path} is missing on tape"
            else:
                ordered.append((_order(entry), member))
    into = Tape(staging, tape.answer_s)
    for number, (_, member) in enumerate(sorted(ordered, key=lambda item: item[0])):
        target = files / member.path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            into.fetch(member.path, f"fetched{number}")
        except NotWhole as failure:
            wrong[member.name] = str(failure)
            continue
        (staging / f"fetched{number}").replace(target)
    return wrong


def _order(entry: Entry) -> tuple[str, tuple[int, int]]:
    return entry.tape or "", entry.position or (0, 0)


def _made(destination: Path) -> Path:
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{destination}: cannot be made: {error.strerror or error}") from error
    return destination


def _place(path: Path, target: Path) -> None:
    """Give the file its name, which must be free: a link fails where a rename would replace."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except FileExistsError as error:
            raise ExistsOtherwise(f"{target}: appeared while it was restored; it was not touched") from error
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK) or os.path.lexists(target):
                raise
            shutil.move(path, target)  # a file system without links
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error
