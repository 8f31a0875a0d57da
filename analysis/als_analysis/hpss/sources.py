"""The files on disk: their SHA-256, that they are the ones that were asked for, and that they stayed so."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from als_analysis.hpss.errors import SourceChanged, TryAgain
from als_analysis.hpss.request import Source

_BLOCK = 4 << 20
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR)


@dataclass(frozen=True)
class Seen:
    """A source as it was read."""

    source: Source
    sha256: str
    identity: tuple[int, int, int, int]


def read(source: Source) -> Seen:
    """Read the file once. Raises SourceChanged when it is missing, or not what the request says."""
    where = f"{source.path}: source"
    try:
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise SourceChanged(f"{where} is no regular file")
            if before.st_size != source.bytes:
                raise SourceChanged(f"{where} has {before.st_size} bytes, the request says {source.bytes}")
            sha256 = _sha256(file)
            after = os.fstat(descriptor)
    except OSError as error:
        raise _unreadable(source.path, error) from error
    if _identity(before) != _identity(after):
        raise SourceChanged(f"{where} changed while it was read")
    if source.sha256 is not None and sha256 != source.sha256:
        raise SourceChanged(f"{where} has SHA-256 {sha256}, the request says {source.sha256}")
    return Seen(source, sha256, _identity(after))


def still_the_same(seen: Iterable[Seen]) -> None:
    """Raises SourceChanged for a file that was touched since it was read: what went to tape may be something else."""
    for one in seen:
        try:
            now = _identity(one.source.path.lstat())
        except OSError as error:
            raise _unreadable(one.source.path, error) from error
        if now != one.identity:
            raise SourceChanged(f"{one.source.path}: source changed while it was stored")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of our own."""
    with path.open("rb", buffering=0) as file:
        return _sha256(file)


def staged(planned: Sequence[tuple[Source, str]], work: Path) -> tuple[Path, bool]:
    """(directory, follow links): where htar finds each source under its name in the tar file.

    The common root where there is one and the names are the real ones, else a tree of links.
    """
    roots = {
        str(source.path)[: -len(name) - 1] if str(source.path).endswith("/" + name) else None
        for source, name in planned
    }
    root = roots.pop() if len(roots) == 1 else None
    if root is not None:
        return Path(root or "/"), False
    tree = work / "tree"
    for source, name in planned:
        link = tree / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.path)
    return tree, True


def _sha256(file: FileIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> SourceChanged | TryAgain:
    text = f"{path}: source cannot be read: {error.strerror or error}"
    return TryAgain(text) if error.errno in _PASSING else SourceChanged(text)
