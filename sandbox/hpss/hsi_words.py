"""How hsi reads a line: commands, options, `local : hpss` pairs; and its checksums."""

from __future__ import annotations

import hashlib
import shlex
import zlib
from collections.abc import Callable
from pathlib import Path

from sandbox.hpss.tape import BLOCK, EX_USAGE, Failed

ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "crc32", "adler32")


def commands_of(line: str) -> list[list[str]]:
    """The commands of a line as lists of words; `;` separates them, quotes protect."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split, lexer.commenters = True, "#"
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word.strip(";") == "" and word:
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def flags_of(words: list[str]) -> tuple[set[str], list[str]]:
    flags, _, names = options_of(words, "")
    return flags, names


def options_of(words: list[str], with_value: str) -> tuple[set[str], dict[str, str], list[str]]:
    """(flags, values by letter, what follows)."""
    flags: set[str] = set()
    values: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        letters = rest.pop(0)[1:]
        for at, letter in enumerate(letters):
            if letter in with_value:
                values[letter] = letters[at + 1 :] or (rest.pop(0) if rest else "")
                break
            flags.add(letter)
    if values.get("H", "md5").lower() not in ALGORITHMS:
        raise Failed(EX_USAGE, f"*** unknown checksum algorithm {values['H']}")
    return flags, values, rest


def pairs_of(names: list[str]) -> list[tuple[str, str]]:
    """`local : hpss`; a name by itself is the HPSS path, and the local file has its last part's name."""
    if not names:
        raise Failed(EX_USAGE, "Usage: put|get [options] local : hpss")
    pairs: list[tuple[str, str]] = []
    rest = list(names)
    while rest:
        if len(rest) >= 3 and rest[1] == ":":
            pairs.append((rest[0], rest[2]))
            rest = rest[3:]
        elif rest[0] == ":":
            raise Failed(EX_USAGE, "*** syntax error: unexpected ':'")
        else:
            pairs.append((rest[0].rpartition("/")[2], rest[0]))
            rest = rest[1:]
    return pairs


class _Checksum:
    """crc32 and adler32 with the interface of hashlib."""

    def __init__(self, function: Callable[[bytes, int], int], start: int) -> None:
        self.function, self.value = function, start

    def update(self, block: bytes) -> None:
        self.value = self.function(block, self.value)

    def hexdigest(self) -> str:
        return f"{self.value:08x}"


def new_digest(algorithm: str) -> hashlib._Hash | _Checksum:
    if algorithm == "crc32":
        return _Checksum(zlib.crc32, 0)
    if algorithm == "adler32":
        return _Checksum(zlib.adler32, 1)
    return hashlib.new(algorithm)


def digest_of(path: Path, algorithm: str) -> str:
    digest = new_digest(algorithm)

    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
