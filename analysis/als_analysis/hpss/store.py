"""Stores an archive, once. Whatever an earlier attempt left is taken up, never written over, never removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from als_analysis.failure import Failure
from als_analysis.hpss import manifest as manifests
from als_analysis.hpss import sources, verify
from als_analysis.hpss.errors import ExistsOtherwise, NotWhole, SourceChanged
from als_analysis.hpss.manifest import Manifest
from als_analysis.hpss.members import How, Member, plan
from als_analysis.hpss.request import Request, Source
from als_analysis.hpss.sources import Seen
from als_analysis.hpss.tape import Entry, Tape
from als_analysis.hpss.tar import Tar

RESULT = "als-archive-result/1"


def store(request: Request, tape: Tape, tar: Tar) -> dict[str, Any]:
    """Store, or adopt what is there; returns the result document. Raises NotWhole, ExistsOtherwise, SourceChanged …"""
    planned = plan(request.archive, request.files, request.member_limit)
    there = tape.entries(request.archive)
    if manifests.path_of(request.archive) in there:
        return _result(_adopted(request, tape, tar), tape, adopted=True)
    seen = [sources.read(source) for source in request.files]
    hashes = {one.source.name: one.sha256 for one in seen}
    members = tuple(Member(s.name, s.bytes, hashes[s.name], how, path) for s, how, path in planned)
    manifest = Manifest(request.archive, members, request.facts, manifests.now())
    _store_files(planned, hashes, there, tape)
    if manifest.by_htar:
        if {request.archive, f"{request.archive}.idx"} & there.keys():
            _prove(manifest, there, tape, tar)
        else:
            _create(request.archive, planned, tape.work, tar)
    sources.still_the_same(seen)
    verify.must_be_whole(manifest, "crc", tape, tar)
    manifests.write(tape, manifest)
    return _result(manifest, tape, adopted=False)


def _store_files(
    planned: list[tuple[Source, How, str]], hashes: dict[str, str], there: dict[str, Entry], tape: Tape
) -> None:
    """The members that htar does not take. One that is there already was whole before it got its name."""
    for number, (source, _, path) in enumerate(item for item in planned if item[1] == "cput"):
        entry = there.get(path)
        if entry is None:
            link = tape.work / f"file{number}"
            link.symlink_to(source.path)
            tape.store(link.name, path, source.bytes, hashes[source.name])
        elif entry.bytes != source.bytes or tape.listed_hash(path) != hashes[source.name]:
            raise ExistsOtherwise(f"{path}: exists on tape, and is not {source.path}; a new archive name is needed")


def _create(archive: str, planned: list[tuple[Source, How, str]], work: Path, tar: Tar) -> None:
    by_htar = [(source, path) for source, how, path in planned if how == "htar"]
    root, linked = sources.staged(by_htar, work)
    try:
        tar.create(archive, [path for _, path in by_htar], root, linked)
    except NotWhole as failure:
        advice = "nothing on tape was removed, a new archive name is needed"
        raise NotWhole(f"{failure}{_lacks(archive, by_htar, tar)}; {advice}") from failure


def _lacks(archive: str, by_htar: list[tuple[Source, str]], tar: Tar) -> str:
    """Which of the files are not in the index of an archive that htar was not content with."""
    try:
        listed = set(tar.members(archive))
    except Failure:  # there is no index, or HPSS is gone: what htar said is all that is known
        return ""
    lacking = [source.name for source, path in by_htar if (path, source.bytes) not in listed]
    if not lacking:
        return ""
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"; the archive lacks {lacking[0]}{more}, {len(by_htar) - len(lacking)} of {len(by_htar)} files are in it"


def _prove(manifest: Manifest, there: dict[str, Entry], tape: Tape, tar: Tar) -> None:
    """An archive without a manifest: an earlier attempt ended there. It counts only if every byte comes back."""
    name = manifest.archive
    advice = "nothing on tape was removed, a new archive name is needed"
    if name not in there or f"{name}.idx" not in there:
        left, lacks = (name, "its index") if name in there else (f"{name}.idx", "its archive")
        raise NotWhole(f"{left}: left by an attempt that did not end, without {lacks}; {advice}")
    found = verify.problems(Manifest(name, tuple(manifest.by_htar), {}, ""), "full", tape, tar)
    if found:
        member = f"{found[0].name}: " if found[0].name else ""
        raise ExistsOtherwise(f"{name}: exists on tape without a manifest: {member}{found[0].reason}; {advice}")


def _adopted(request: Request, tape: Tape, tar: Tar) -> Manifest:
    """The manifest on tape, if it is of this request and the archive is whole. The files on disk may be gone by now."""
    manifest = manifests.read(tape, request.archive)
    stored = {member.name: member for member in manifest.members}
    advice = "nothing was touched, a new archive name is needed"
    for source in request.files:
        member = stored.pop(source.name, None)
        if member is None:
            raise ExistsOtherwise(f"{request.archive}: exists on tape, without {source.name}; {advice}")
        sha256 = source.sha256 or _on_disk(source, member)
        if (source.bytes, sha256) != (member.bytes, member.sha256):
            raise ExistsOtherwise(f"{request.archive}: exists on tape, with another {source.name}; {advice}")
    if stored:
        raise ExistsOtherwise(f"{request.archive}: exists on tape, and holds {next(iter(stored))} as well; {advice}")
    verify.must_be_whole(manifest, "crc", tape, tar)
    return manifest


def _on_disk(source: Source, member: Member) -> str:
    """The file's SHA-256 now; that of the archive when the file is no longer there."""
    try:
        seen: Seen = sources.read(source)
    except SourceChanged:
        if source.path.exists() or source.path.is_symlink():
            raise
        return member.sha256
    return seen.sha256


def _result(manifest: Manifest, tape: Tape, adopted: bool) -> dict[str, Any]:
    entries = tape.entries(manifest.archive)
    paths = [*([manifest.archive] if manifest.by_htar else []), *(member.path for member in manifest.by_cput)]
    there = [entries[path] for path in paths if path in entries]
    places = [
        {"path": entry.path, "tape": entry.tape, "position": "+".join(map(str, entry.position))}
        for entry in there
        if entry.tape is not None and entry.position is not None
    ]
    return {
        "schema": RESULT,
        "archive": manifest.archive,
        "index": f"{manifest.archive}.idx" if manifest.by_htar else None,
        "bytes": sum(entry.bytes for entry in there),
        "members": [member.document() for member in manifest.members],
        "manifest_path": manifests.path_of(manifest.archive),
        "verified": {"method": verify.method(manifest, "crc"), "at": manifests.now()},
        "tape": places or None,
        "adopted": adopted,
    }
