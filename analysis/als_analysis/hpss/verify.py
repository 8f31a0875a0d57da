"""Is everything on tape that the manifest says?

listing   the index lists the members, and no others, with their sizes; each file is there with its size. Reads no tape
crc       and htar reads the archive against its CRCs (-K), hsi the single files against their SHA-256 (hashverify)
full      and everything comes back to disk and has the manifest's SHA-256
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from als_analysis.hpss import manifest as manifests
from als_analysis.hpss.errors import NotWhole
from als_analysis.hpss.manifest import Manifest
from als_analysis.hpss.members import Member
from als_analysis.hpss.sources import file_sha256
from als_analysis.hpss.tape import Tape
from als_analysis.hpss.tar import Tar

Level = Literal["listing", "crc", "full"]
LEVELS: tuple[Level, ...] = ("listing", "crc", "full")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a member, or with the archive as such (name "")."""

    name: str
    reason: str


def problems(manifest: Manifest, level: Level, tape: Tape, tar: Tar) -> list[Problem]:
    """Everything that is wrong with an archive; empty when it is whole. Raises when HPSS cannot be asked."""
    found = [*_listed(manifest, tape, tar)]
    if level != "listing":
        if manifest.by_htar and not any(p.name == "" for p in found):
            found += _tried("", lambda: tar.check(manifest.archive))
        for member in manifest.by_cput:
            found += _hashed(member, tape)
    if level == "full" and not found:
        for member, sha256 in fetched_hashes(manifest.archive, manifest.members, tape, tar):
            if sha256 != member.sha256:
                found.append(Problem(member.name, f"reads back with SHA-256 {sha256}, stored was {member.sha256}"))
    return found


def must_be_whole(manifest: Manifest, level: Level, tape: Tape, tar: Tar) -> None:
    """Raises NotWhole with the first problem."""
    found = problems(manifest, level, tape, tar)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        member = f"{found[0].name}: " if found[0].name else ""
        raise NotWhole(f"{manifest.archive}: {member}{found[0].reason}{more}; nothing on tape was removed")


def method(manifest: Manifest, level: Level) -> str:
    """What was done, in words for the record."""
    steps = ["htar listing"] if manifest.by_htar else []
    if level != "listing":
        steps += ["htar -K -Hverify=crc"] if manifest.by_htar else []
        steps += ["hsi hashverify sha256"] if manifest.by_cput else []
    if level == "full":
        steps.append("SHA-256 of all members read back")
    return ", ".join([*steps, "manifest read back"])


def fetched_hashes(archive: str, members: Sequence[Member], tape: Tape, tar: Tar) -> Iterator[tuple[Member, str]]:
    """(member, its SHA-256 as it comes back from tape, or "nothing"). Needs the archive's size on disk."""
    by_htar = [member for member in members if member.how == "htar"]
    into = tape.work / "read-back"
    into.mkdir()
    try:
        if by_htar:
            tar.extract(archive, [member.path for member in by_htar], into)
        for member in by_htar:
            path = into / member.path
            yield member, file_sha256(path) if path.is_file() and not path.is_symlink() else "nothing"
    finally:
        shutil.rmtree(into, ignore_errors=True)
    for member in members:
        if member.how == "cput":
            local = tape.work / "read-back-file"
            tape.fetch(member.path, local.name)
            yield member, file_sha256(local)
            local.unlink()


def _listed(manifest: Manifest, tape: Tape, tar: Tar) -> Iterator[Problem]:
    there = tape.entries(manifest.archive)
    if manifest.by_htar:
        missing = [path for path in (manifest.archive, f"{manifest.archive}.idx") if path not in there]
        if missing:
            yield Problem("", f"{missing[0]} is missing on tape")
            return
        try:
            listed = tar.members(manifest.archive)
        except NotWhole as failure:
            yield Problem("", str(failure))
            return
        expected = Counter((member.path, member.bytes) for member in manifest.by_htar)
        names = {member.path: member.name for member in manifest.by_htar}
        for path, size in expected - Counter(listed):
            sizes = [there for name, there in listed if name == path]
            state = f"has {sizes[0]} bytes" if sizes else "is missing"
            yield Problem(names[path], f"{state} in the index, {size} bytes were stored; {len(listed)} members there")
        for path, size in Counter(listed) - expected:
            if path not in names or (path, size) in expected:
                yield Problem(path, "is in the index, and was not stored by us")
    for member in manifest.by_cput:
        entry = there.get(member.path)
        if entry is None or entry.bytes != member.bytes:
            state = "is missing on tape" if entry is None else f"has {entry.bytes} bytes on tape"
            yield Problem(member.name, f"{member.path} {state}, {member.bytes} bytes were stored")


def _hashed(member: Member, tape: Tape) -> list[Problem]:
    def compare() -> None:
        if (listed := tape.listed_hash(member.path)) != member.sha256:
            raise NotWhole(f"{member.path}: HPSS has SHA-256 {listed}, stored was {member.sha256}")
        tape.verify_hash(member.path)

    return _tried(member.name, compare)


def _tried(name: str, check: Callable[[], None]) -> list[Problem]:
    try:
        check()
    except NotWhole as failure:
        return [Problem(name, str(failure))]
    return []


def report(archive: str, level: Level, tape: Tape, tar: Tar) -> tuple[Manifest | None, list[Problem]]:
    """The manifest on tape, and what is wrong with the archive against it."""
    if manifests.path_of(archive) not in tape.entries(archive):
        return None, [Problem("", f"{manifests.path_of(archive)} is missing on tape")]
    try:
        manifest = manifests.read(tape, archive)
    except NotWhole as failure:
        return None, [Problem("", str(failure))]
    return manifest, problems(manifest, level, tape, tar)
