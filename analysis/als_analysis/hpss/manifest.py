"""The manifest of an archive: what it holds, beside it on tape. An archive without one does not count."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from als_analysis import __version__
from als_analysis.hpss.errors import NotWhole
from als_analysis.hpss.members import Member
from als_analysis.hpss.sources import file_sha256
from als_analysis.hpss.tape import Tape

SCHEMA = "als-archive-manifest/1"


@dataclass(frozen=True)
class Manifest:
    """`facts`: what the platform wanted to be remembered. `created_at`: when the archive was verified first."""

    archive: str
    members: tuple[Member, ...]
    facts: dict[str, Any]
    created_at: str

    @property
    def by_htar(self) -> list[Member]:
        return [member for member in self.members if member.how == "htar"]

    @property
    def by_cput(self) -> list[Member]:
        return [member for member in self.members if member.how == "cput"]

    def document(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "archive": self.archive,
            "created_at": self.created_at,
            "members": [member.document() for member in self.members],
            "manifest": self.facts,
            "versions": {"als-analysis": __version__, "python": platform.python_version()},
        }


def path_of(archive: str) -> str:
    """Where an archive's manifest is on tape."""
    return f"{archive}.manifest.json"


def write(tape: Tape, manifest: Manifest) -> None:
    """Put the manifest beside its archive, and read it back."""
    local = tape.work / "manifest.json"
    local.write_text(json.dumps(manifest.document(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    tape.store(local.name, path_of(manifest.archive), local.stat().st_size, file_sha256(local))
    if read(tape, manifest.archive).members != manifest.members:
        raise NotWhole(f"{path_of(manifest.archive)}: reads back different from what was written")


def read(tape: Tape, archive: str) -> Manifest:
    """The manifest that is on tape; it must be there. Raises NotWhole when it is no manifest of this archive."""
    path, local = path_of(archive), tape.work / "manifest-read-back.json"
    local.unlink(missing_ok=True)
    tape.fetch(path, local.name)
    try:
        document = json.loads(local.read_bytes())
        if document["schema"] != SCHEMA or document["archive"] != archive:
            raise ValueError("it is of another archive or version")
        members = tuple(_member(item) for item in document["members"])
        return Manifest(archive, members, dict(document["manifest"]), str(document["created_at"]))
    except (ValueError, KeyError, TypeError) as error:
        raise NotWhole(f"{path}: unreadable manifest: {error}") from error


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _member(item: dict[str, Any]) -> Member:
    name, path, size, sha256 = item["name"], item["path"], item["bytes"], item["sha256"]
    if item["how"] not in ("htar", "cput") or not isinstance(size, int):
        raise ValueError(f"member {name!r}")
    if any(Path(text).is_absolute() or ".." in Path(text).parts for text in _local_names(item)):
        raise ValueError(f"member {name!r} leads out of its directory")
    return Member(str(name), size, str(sha256), item["how"], str(path))


def _local_names(item: dict[str, Any]) -> list[str]:
    return [item["name"], item["path"]] if item["how"] == "htar" else [item["name"]]
