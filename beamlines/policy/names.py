"""What a scan is called: its partition key, its short hash, and which file names are refused.

File names are hostile input. A key uses only [A-Za-z0-9._/=-], so that it survives partition ranges, URLs, tags and
shells; any other byte of the UTF-8 path is written =XX, and so is a '=' itself, a '.' after a '.' (a range is written
'a...b') and a '-' or '.' at the start of a component. The mapping is one to one: `path_of(key_of(p)) == p`.
"""

from __future__ import annotations

import hashlib
import re
import string

SAFE = frozenset(string.ascii_letters + string.digits + "._-/")
ESCAPE = re.compile(r"=([0-9A-F]{2})")


def refusal(path: str) -> str | None:
    """Why a path cannot become a scan, in words, or None when it can."""
    if not path:
        return "the name is empty"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not valid UTF-8: rename the file at the beamline"
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "the name has a control character (newline, tab …): rename the file at the beamline"
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        return "the path leads outside the watched folder"
    return None


def key_of(path: str) -> str:
    """The partition key of a scan whose path, relative to the watched root, is `path`. Raises ValueError if refused."""
    why = refusal(path)
    if why:
        raise ValueError(f"{path!r}: {why}")
    out: list[str] = []
    previous = "/"
    for char in path:
        plain = char in SAFE and not (char == "." and previous in "./") and not (char == "-" and previous == "/")
        out.append(char if plain else "".join(f"={byte:02X}" for byte in char.encode("utf-8")))
        previous = char
    return "".join(out)


def path_of(key: str) -> str:
    """The path that a key stands for."""
    raw = ESCAPE.sub(lambda m: chr(int(m.group(1), 16)), key)
    return raw.encode("latin-1").decode("utf-8")


def hash_of(beamline: str, key: str) -> str:
    """Twelve hexadecimal digits that name a scan in job names and catalogue pids."""
    return hashlib.sha256(f"{beamline}\0{key}".encode()).hexdigest()[:12]
