"""Copying one file as a transfer does: beside its final name first, with checksums of both ends."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sandbox.transfer_collections import OutsideRoot

CHUNK = 1 << 20
_CODES = {
    errno.ENOENT: "FILE_NOT_FOUND",
    errno.EACCES: "PERMISSION_DENIED",
    errno.EPERM: "PERMISSION_DENIED",
    errno.EROFS: "PERMISSION_DENIED",
    errno.ENOSPC: "NO_SPACE_LEFT",
    errno.EDQUOT: "QUOTA_EXCEEDED",
}


class Trouble(Exception):
    """What went wrong with a file. code: as in the events of a task. side: source or destination.

    fatal: the task ends with it; otherwise the service tries again until the deadline.
    """

    def __init__(self, code: str, details: str, side: str = "source", fatal: bool = False) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.details, self.side, self.fatal = code, details, side, fatal


def trouble(error: OSError, side: str) -> Trouble:
    if isinstance(error, OutsideRoot):
        return Trouble("PERMISSION_DENIED", str(error), side)
    return Trouble(_CODES.get(error.errno or 0, "ENDPOINT_ERROR"), error.strerror or str(error), side)


@dataclass(frozen=True)
class Copied:
    bytes: int
    checksum: str | None


def copy(
    source: Path,
    destination: Path,
    part: str,
    *,
    verify: bool,
    preserve_timestamp: bool,
    external: tuple[str, str] | None = None,
    damage: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Copied:
    """Copy a file. Raises Trouble.

    part: ending of the temporary name. external: (algorithm, checksum) that the source must have. damage: flip one byte
    of what arrives. progress: called with the bytes so far; what it raises ends the copy and leaves nothing behind.
    """
    algorithm = external[0] if external else "md5"
    short = hashlib.sha256(os.fsencode(destination.name)).hexdigest()[:16]  # the name itself may have 255 bytes already
    temporary = destination.with_name(f".{short}.{part}")
    try:
        digest = hashlib.new(algorithm, usedforsecurity=False)
        with _opened(source) as read, _made(temporary) as written:
            before = os.fstat(read.fileno())
            size = 0
            while chunk := read.read(CHUNK):
                if verify or external:
                    digest.update(chunk)
                if damage and size == 0:
                    chunk = bytes([chunk[0] ^ 0xFF]) + chunk[1:]
                written.write(chunk)
                size += len(chunk)
                progress(size)
            if size != before.st_size or os.fstat(read.fileno()).st_size != size:
                raise Trouble("FILE_SIZE_CHANGED", f"expected {before.st_size} bytes, read {size}")
        if preserve_timestamp:  # whole seconds: GridFTP knows no better
            os.utime(temporary, (int(before.st_atime), int(before.st_mtime)))
        temporary.replace(destination)  # the service writes to the final name: unverified content can be seen there
        return _verified(destination, size, digest.hexdigest(), verify, algorithm, external)
    except OSError as error:
        raise trouble(error, "destination") from error
    finally:
        temporary.unlink(missing_ok=True)


def _verified(
    destination: Path, size: int, checksum: str, verify: bool, algorithm: str, external: tuple[str, str] | None
) -> Copied:
    if external and external[1].lower() != checksum:
        raise Trouble("VERIFY_CHECKSUM", f"external checksum {external[1]}, source has {checksum}", fatal=True)
    if not verify:
        return Copied(size, None)
    found = checksum_of(destination, algorithm)
    if found != checksum:
        raise Trouble("VERIFY_CHECKSUM", f"source {checksum}, destination {found}", "destination")
    return Copied(size, checksum)


def checksum_of(path: Path, algorithm: str = "md5") -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def up_to_date(source: Path, destination: Path, level: int | None) -> bool:
    """Does a sync of this level leave the destination as it is? 0 exists, 1 size, 2 mtime, 3 checksum."""
    if level is None or not destination.is_file():
        return False
    if level == 0:
        return True
    old, new = destination.stat(), source.stat()
    if old.st_size != new.st_size:
        return False
    if level == 1:
        return True
    if level == 2:
        return int(old.st_mtime) >= int(new.st_mtime)
    return checksum_of(source) == checksum_of(destination)


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as error:
        raise trouble(error, "source") from error


def _made(temporary: Path) -> BinaryIO:
    temporary.parent.mkdir(parents=True, exist_ok=True)
    return temporary.open("wb")
