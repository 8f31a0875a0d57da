"""The requests of als-archive, checked: every name that is odd is refused here, before anything is done."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from als_analysis.failure import BadArguments

SCHEMA = "als-archive/1"
MEMBER_LIMIT = 8**12 - 1  # htar's own
TAPE_NAME = re.compile(r"(/[A-Za-z0-9_=+@][A-Za-z0-9._=+@-]{0,199})+\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """A file to be stored: where it lies, what it is called in the archive, and what is known of it."""

    path: Path
    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Request:
    """A checked `als-archive/1` document. `names`: which members to restore; None for all."""

    archive: str
    out: Path
    files: tuple[Source, ...]
    facts: dict[str, Any]
    member_limit: int
    destination: Path | None
    names: tuple[str, ...] | None


def parse(text: str, verb: str) -> Request:
    """The request of `verb` (store, verify, restore); raises BadArguments with the field at fault."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadArguments(f"request: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BadArguments(f"request: field schema: expected {SCHEMA}")
    archive = document.get("archive")
    if not isinstance(archive, str) or TAPE_NAME.fullmatch(archive) is None or len(archive) > 1000:
        wanted = "an absolute path of letters, digits and ._=+@- that ends in .tar"
        raise BadArguments(f"request: field archive: expected {wanted}, got {archive!r}")
    facts = document.get("manifest", {})
    if not isinstance(facts, dict):
        raise BadArguments("request: field manifest: expected an object")
    limit = document.get("member_limit", MEMBER_LIMIT)
    if not isinstance(limit, int) or not 0 <= limit <= MEMBER_LIMIT:
        raise BadArguments(f"request: field member_limit: expected at most {MEMBER_LIMIT}, which is what htar takes")
    files: tuple[Source, ...] = ()
    names: tuple[str, ...] | None = None
    destination: Path | None = None
    if verb == "store":
        files = _files(document.get("files"))
    elif verb == "restore":
        destination = _directory(document, "destination")
        wanted_names = document.get("names")
        if wanted_names is not None:
            if not isinstance(wanted_names, list) or not wanted_names:
                raise BadArguments("request: field names: expected a list of member names, or null for all")
            names = tuple(_name(name, f"names[{at}]") for at, name in enumerate(wanted_names))
    return Request(archive, _directory(document, "out"), files, facts, limit, destination, names)


def _directory(document: dict[str, Any], field: str) -> Path:
    value = document.get(field)
    if not isinstance(value, str) or "\0" in value or not Path(value).is_absolute() or ".." in Path(value).parts:
        raise BadArguments(f"request: field {field}: expected an absolute path without ..")
    return Path(value)


def _files(items: Any) -> tuple[Source, ...]:
    if not isinstance(items, list) or not items:
        raise BadArguments("request: field files: expected at least one")
    sources: list[Source] = []
    for at, item in enumerate(items):
        where = f"files[{at}]"
        if not isinstance(item, dict):
            raise BadArguments(f"request: field {where}: expected an object")
        name = _name(item.get("name"), f"{where}.name")
        path, size, digest = item.get("path"), item.get("bytes"), item.get("sha256")
        if not isinstance(path, str) or not path.startswith("/"):
            raise BadArguments(f"request: field {where}.path: expected an absolute path")
        _printable(path, f"{where}.path")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BadArguments(f"request: field {where}.bytes: expected a number of bytes, for {name!r}")
        if digest is not None and (not isinstance(digest, str) or _SHA256.fullmatch(digest) is None):
            raise BadArguments(f"request: field {where}.sha256: expected 64 hexadecimal digits or null, for {name!r}")
        sources.append(Source(Path(path), name, size, digest))
    known = {source.name for source in sources}
    if len(known) != len(sources):
        raise BadArguments("request: field files: two members have the same name")
    for name in known:
        for parent in list(Path(name).parents)[:-1]:
            if str(parent) in known:
                raise BadArguments(
                    f"request: field files: {str(parent)!r} is both a member and the directory of another"
                )
    return tuple(sorted(sources, key=lambda source: source.name.encode()))


def _name(value: Any, where: str) -> str:
    """A relative name that stays below its root, whatever the root is."""
    if not isinstance(value, str) or not value:
        raise BadArguments(f"request: field {where}: expected a name")
    _printable(value, where)
    if value.startswith("/") or value != posixpath.normpath(value) or value.split("/")[0] in (".", ".."):
        raise BadArguments(f"request: field {where}: expected a relative name without . and .., got {value!r}")
    return value


def _printable(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadArguments(f"request: field {where}: the name is not UTF-8: {text!r}; rename the file") from error
    if any(c in text for c in "\n\r\0"):
        raise BadArguments(f"request: field {where}: a line break in the name {text!r}; rename the file")
