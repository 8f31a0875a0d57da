"""Which files make one scan: the file that a pattern of the spec names, and its companions beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from beamlines.spec import ScanFiles

PRIMARY = "data"


@dataclass
class Group:
    """The files of one scan: role -> path relative to the watched root. PRIMARY is always there."""

    path: str
    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # required companions that are not there


@lru_cache(maxsize=512)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob with `**/` (any folders, or none), `*` and `?` (within one component) as a regular expression."""
    out, i = "", 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out, i = out + "(?:[^/]+/)*", i + 3
        elif glob.startswith("**", i):
            out, i = out + ".*", i + 2
        elif glob[i] == "*":
            out, i = out + "[^/]*", i + 1
        elif glob[i] == "?":
            out, i = out + "[^/]", i + 1
        else:
            out, i = out + re.escape(glob[i]), i + 1
    return re.compile(out, re.DOTALL)


@lru_cache(maxsize=512)
def _companion_pattern(template: str) -> re.Pattern[str]:
    before, after = template.split("{stem}", 1)
    return re.compile(rf"(?P<folder>(?:.*/)?){re.escape(before)}(?P<stem>[^/]+){re.escape(after)}", re.DOTALL)


def stem_of(path: str) -> str:
    """`a/b/scan.001.h5` -> `a/b/scan.001`."""
    folder, _, name = path.rpartition("/")
    base = name.rsplit(".", 1)[0] if "." in name[1:] else name
    return f"{folder}/{base}" if folder else base


def ignored(rule: ScanFiles, path: str) -> bool:
    return any(glob_pattern(glob).fullmatch(path) for glob in rule.ignore)


def companion_of(rule: ScanFiles, path: str) -> tuple[str, str] | None:
    """(role, stem path of the scan) when `path` is named like a companion, else None."""
    for role, template in rule.companions.items():
        match = _companion_pattern(template).fullmatch(path)
        if match:
            return role, match["folder"] + match["stem"]
    return None


def belongs(rule: ScanFiles, path: str) -> bool:
    """Is `path` named like a file of a scan? Whatever else lies on the disk is nobody's business."""
    named = companion_of(rule, path) is not None or any(glob_pattern(glob).fullmatch(path) for glob in rule.files)
    return named and not ignored(rule, path)


def group(rule: ScanFiles, paths: Iterable[str]) -> list[Group]:
    """Group the files of a listing into scans, in the order of their names. A companion without its scan is no scan."""
    primaries: dict[str, Group] = {}
    companions: dict[str, dict[str, str]] = {}
    for path in sorted(paths):
        if ignored(rule, path):
            continue
        companion = companion_of(rule, path)
        if companion:
            role, stem = companion
            companions.setdefault(stem, {})[role] = path
        elif any(glob_pattern(glob).fullmatch(path) for glob in rule.files):
            primaries[path] = Group(path, {PRIMARY: path})
    for found in primaries.values():
        found.files.update(companions.get(stem_of(found.path), {}))
        found.missing = [role for role in rule.required if role not in found.files]
    return list(primaries.values())
