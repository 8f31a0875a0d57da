"""USTAR (POSIX 1003.1) as htar writes it: no extensions, a name of 99 bytes after a prefix of 154, sizes below 8^12."""

from __future__ import annotations

import stat
from typing import BinaryIO

from sandbox.box import Doc

BLOCK = 512
NAME_LIMIT, PREFIX_LIMIT, LINK_LIMIT = 99, 154, 99
END = bytes(2 * BLOCK)


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) as they go into a header; None for a name that is too long for one."""
    if len(name) <= NAME_LIMIT:
        return b"", name
    for at in range(len(name) - 1, 0, -1):
        if name[at : at + 1] == b"/" and 1 <= len(name) - at - 1 <= NAME_LIMIT and at <= PREFIX_LIMIT:
            return name[:at], name[at + 1 :]
    return None


def header(entry: Doc, name: bytes) -> bytes:
    """The 512 bytes before a member's data. `entry`: size, mode, uid, gid, mtime, type, link, user, group."""
    prefix, rest = split_name(name) or (b"", name[:NAME_LIMIT])

    def octal(value: int, width: int) -> bytes:
        return b"%0*o\0" % (width - 1, value) if value < 8 ** (width - 1) else b"%0*o" % (width, value)

    block = b"".join(
        (
            rest.ljust(100, b"\0"), octal(entry["mode"], 8), octal(entry["uid"], 8), octal(entry["gid"], 8),
            octal(entry["size"], 12), octal(entry["mtime"], 12), b" " * 8, entry["type"].encode(),
            entry["link"].encode("utf-8", "surrogateescape").ljust(100, b"\0"), b"ustar\x0000",
            entry["user"].encode().ljust(32, b"\0"), entry["group"].encode().ljust(32, b"\0"), octal(0, 8), octal(0, 8),
            prefix.ljust(155, b"\0"),
        )
    ).ljust(BLOCK, b"\0")  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def parse(block: bytes) -> Doc | None:
    """The entry of a header, without its offset; None when this is no header, or its checksum is wrong."""
    if len(block) < BLOCK or block[257:262] != b"ustar":
        return None
    try:
        if sum(block[:148]) + 8 * 32 + sum(block[156:]) != _number(block[148:156]):
            return None
        name, prefix = _text(block[:100]), _text(block[345:500])
        return {
            "name": f"{prefix}/{name}" if prefix else name, "mode": _number(block[100:108]),
            "uid": _number(block[108:116]), "gid": _number(block[116:124]), "size": _number(block[124:136]),
            "mtime": _number(block[136:148]), "type": block[156:157].decode(), "link": _text(block[157:257]),
            "user": _text(block[265:297]), "group": _text(block[297:329]),
        }  # fmt: skip
    except ValueError:
        return None


def entries(file: BinaryIO) -> list[Doc]:
    """All members of an archive, with "offset" of their data; as far as it can be read."""
    found: list[Doc] = []
    at = 0
    while True:
        file.seek(at)
        entry = parse(file.read(BLOCK))
        if entry is None:
            return found
        found.append({**entry, "offset": at + BLOCK, "crc": None})
        at += BLOCK + padded(int(entry["size"]))


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def mode_string(entry: Doc) -> str:
    kind = {"5": stat.S_IFDIR, "2": stat.S_IFLNK}.get(entry["type"], stat.S_IFREG)
    return stat.filemode(kind | int(entry["mode"]))


def _number(field: bytes) -> int:
    return int(field.strip(b" \0") or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")
