"""Which way each file goes to tape, and under which name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from als_analysis.hpss.request import Source
from als_analysis.hpss.tar import is_own

NAME_LIMIT, PREFIX_LIMIT = 99, 154  # of htar, in bytes: longer names are left out, and it says SUCCESSFUL
How = Literal["htar", "cput"]


@dataclass(frozen=True)
class Member:
    """A file of an archive. `path`: for htar its name in the tar file, for cput its path on tape."""

    name: str
    bytes: int
    sha256: str
    how: How
    path: str

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256, "how": self.how, "path": self.path}


def plan(archive: str, sources: Sequence[Source], member_limit: int) -> list[tuple[Source, How, str]]:
    """(source, how, path) for each source, the same for the same sources whatever was done before."""
    planned: list[tuple[Source, How, str]] = []
    taken = {source.name for source in sources}
    for number, source in enumerate(sources, start=1):
        name = tar_name(source.name)
        fits = source.bytes <= member_limit and fits_header(name) and not is_own(name)
        if fits and (name == source.name or name not in taken):
            taken.add(name)
            planned.append((source, "htar", name))
        else:
            planned.append((source, "cput", f"{archive}.file{number:05d}"))
    return planned


def tar_name(name: str) -> str:
    """The name in the tar file: printable ASCII as it is, the rest percent-encoded.

    The tools' manuals promise printable ASCII only; a blank at an end may be lost in htar's list file, and a leading
    dash may be taken for an option there.
    """
    if name.isascii() and name.isprintable() and name == name.strip() and not name.startswith("-"):
        return name
    encoded: list[str] = []
    for at, byte in enumerate(name.encode()):
        character = chr(byte)
        plain = " " < character <= "~" and character != "%" and not (at == 0 and character == "-")
        encoded.append(character if plain else f"%{byte:02X}")
    return "".join(encoded)


def fits_header(name: str) -> bool:
    """Does a USTAR header take this name: 99 bytes, after a prefix of up to 154 that ends at a slash?"""
    raw = name.encode()
    if len(raw) <= NAME_LIMIT:
        return True
    return any(
        at <= PREFIX_LIMIT and 1 <= len(raw) - at - 1 <= NAME_LIMIT
        for at in range(1, len(raw))
        if raw[at : at + 1] == b"/"
    )
