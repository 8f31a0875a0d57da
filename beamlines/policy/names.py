"""What a scan is called: its partition key, its short hash, and which file names are refused.

File names are hostile input. A key uses only [A-Za-z0-9._/=-], so that it survives partition ranges, URLs, tags and
shells; any other byte of the UTF-8 path is written =XX, and so is a '=' itself, a '.' after a '.' (a range is written
'a...b'), a '.' at the very end, and a '-' or '.' at the start of a component. The mapping is one to one:
`path_of(key_of(p)) == p`.

A file that was written anew under the same name makes a scan of its own, a new version: its key ends in '=v2', '=v3' …,
which is no escape and so the key of no path, and its copies are in a folder of their own, 'als-versions/v2', in which
no file of a detector may be.
"""

from __future__ import annotations

import hashlib
import re
import string

SAFE = frozenset(string.ascii_letters + string.digits + "._-/")
VERSIONS = "als-versions"  # the folder of later versions, below each place that has copies
VERSION = re.compile(r"=v([1-9][0-9]*)$")
NO_TEXT = "\ufffd"  # Globus shows a name that is no UTF-8 as latin-1 behind this; a job would find no file of that name
ESCAPE = re.compile(r"=([0-9A-F]{2})")
MOST_KEY = 2000  # characters: PostgreSQL indexes values of up to 2,704 bytes, and Dagster and the ledger index keys


def refusal(path: str) -> str | None:
    """Why a path cannot become a scan, in words, or None when it can."""
    if not path:
        return "the name is empty"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not valid UTF-8: rename the file at the beamline"
    if any(part.startswith(NO_TEXT) for part in path.split("/")):
        return "the name is not valid UTF-8, as Globus tells it: rename the file at the beamline"
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "the name has a control character (newline, tab …): rename the file at the beamline"
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        return "the path leads outside the watched folder"
    if path.partition("/")[0] == VERSIONS:
        return f"the folder {VERSIONS} is kept for later versions of scans: rename it at the beamline"
    if len(path) * 12 > MOST_KEY and len(_encoded(path)) > MOST_KEY:
        return "the path is too long: shorten the names of its folders"
    return None


def key_of(path: str, version: int = 1) -> str:
    """The partition key of a scan whose path, relative to the watched root, is `path`. Raises ValueError if refused."""
    why = refusal(path)
    if why:
        raise ValueError(f"{path!r}: {why}")
    return _encoded(path) if version == 1 else f"{_encoded(path)}=v{version}"


def version_of(key: str) -> int:
    """Which version of its path a scan is: 1 for the first content that was noticed."""
    found = VERSION.search(key)
    return int(found[1]) if found else 1


def folder_of_version(key: str) -> str:
    """Where the copies of a scan are, relative to any place but the watched one: "" for the first version."""
    version = version_of(key)
    return "" if version == 1 else f"{VERSIONS}/v{version}"


def _encoded(path: str) -> str:
    out: list[str] = []
    previous = "/"
    for char in path:
        plain = char in SAFE and not (char == "." and previous in "./") and not (char == "-" and previous == "/")
        out.append(char if plain else _escaped(char))
        previous = char
    if out[-1] == ".":  # 'a.' to 'b' would be the range 'a....b'
        out[-1] = _escaped(".")
    return "".join(out)


def _escaped(char: str) -> str:
    return "".join(f"={byte:02X}" for byte in char.encode("utf-8"))


def path_of(key: str) -> str:
    """The path that a key stands for, of whatever version."""
    raw = ESCAPE.sub(lambda m: chr(int(m.group(1), 16)), VERSION.sub("", key))
    return raw.encode("latin-1").decode("utf-8")


def hash_of(beamline: str, key: str) -> str:
    """Sixteen hexadecimal digits that name a scan in job names and catalogue pids: 64 bits, so that not even among ten
    million scans two are expected to share a name (with 48 bits it would be one chance in six)."""
    return hashlib.sha256(f"{beamline}\0{key}".encode()).hexdigest()[:16]
