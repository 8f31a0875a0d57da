"""`hsi`: files on tape by commands like a shell's: one line, `in FILE`, or standard input."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from sandbox.box import Doc
from sandbox.hpss.hsi_words import commands_of, digest_of, flags_of, new_digest, options_of, pairs_of
from sandbox.hpss.tape import (
    BLOCK,
    EX_IOERR,
    EX_OSFILE,
    EX_SOFTWARE,
    EX_UNAVAILABLE,
    EX_USAGE,
    HOME,
    Failed,
    Quota,
    Tape,
)

UNREACHABLE = (
    "result = -11000, errno = 111\nUnable to setup communication to HPSS...\n"
    "*** HSI: error opening logging\nError - authentication/initialization failed"
)
ALIASES = {"save": "cput", "s": "cput", "lshash": "hashlist", "hashls": "hashlist", "delete": "rm", "exit": "quit"}


class Stop(Exception):
    """quit, exit."""


class Hsi:
    def __init__(self, tape: Tape, everything_on_stdout: bool, quiet: bool) -> None:
        self.tape = tape
        self.cwd = HOME
        self.out = sys.stdout if everything_on_stdout else sys.stderr
        self.popen, self.quiet = everything_on_stdout, quiet or everything_on_stdout
        self.code = 0

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def run(self, line: str) -> None:
        """All commands of a line; a failed one stops no other, and the first failure's code is the exit code."""
        try:
            words = commands_of(line)
        except ValueError as error:
            self._failed(Failed(EX_USAGE, f"*** syntax error: {error}: {line}"))
            return
        for command in words:
            try:
                self._one(command)
            except Failed as failed:
                self._failed(failed)

    def _failed(self, failed: Failed) -> None:
        self.say(UNREACHABLE if failed.code == EX_UNAVAILABLE and not failed.text else failed.text)
        self.code = self.code or failed.code

    def _one(self, words: list[str]) -> None:
        name = ALIASES.get(words[0], words[0])
        handler: Callable[[list[str]], None] | None = getattr(self, f"do_{name}", None)
        if handler is None:
            raise Failed(EX_USAGE, f"*** unknown command or ambiguous abbreviation: {words[0]}")
        self.tape.route = f"hsi {name}"
        handler(words[1:])

    # what a command works on

    def _paths(self, names: list[str]) -> list[str]:
        """Absolute paths that exist; wildcards in the last part are expanded."""
        found: list[str] = []
        if not names:
            raise Failed(EX_USAGE, f"Usage: {self.tape.route.split()[-1]} path ...")
        for name in names:
            path = self.tape.absolute(name, self.cwd)
            if not any(c in path for c in "*?[") or self.tape.local(path).exists():
                found.append(path)
                continue
            folder, _, pattern = path.rpartition("/")
            local = self.tape.local(folder)
            inside = sorted(p.name for p in local.iterdir()) if local.is_dir() else []
            matching = [f"{folder}/{inner}" for inner in inside if fnmatchcase(inner, pattern)]
            if not matching:
                raise Failed(EX_USAGE, f"*** Warning: No matching names located for '{name}'")
            found.extend(matching)
        return found

    def _missing(self, path: str, call: str = "hpss_Lstat") -> Failed:
        return Failed(EX_USAGE, f"*** {call}: No such file or directory [-2: HPSS_ENOENT]\n    {path}")

    # directories and listings

    def do_ls(self, words: list[str]) -> None:
        flags, names = flags_of(words)
        for name in names or [self.cwd]:
            with self.tape.command("hsi ls", self.tape.absolute(name, self.cwd)):
                for path in self._paths([name]):
                    self._list(flags, path)

    def _list(self, flags: set[str], path: str) -> None:
        local = self.tape.local(path)
        if not local.exists():
            raise self._missing(path)
        if "R" in flags:
            for inside in sorted(p for p in local.rglob("*") if p.is_file()):
                self._line(flags, f"{path}/{inside.relative_to(local)}")
        elif local.is_dir() and "d" not in flags:
            if "l" in flags and "P" not in flags:
                self.say(f"{path}:")
            for name in sorted(p.name for p in local.iterdir()):
                if not name.startswith(".") or "a" in flags:
                    self._line(flags, f"{path.rstrip('/')}/{name}")
        else:
            self._line(flags, path)

    def _line(self, flags: set[str], path: str) -> None:
        local = self.tape.local(path)
        status = local.stat()
        if "P" in flags:
            self.say(self._position(path, local.is_dir(), status))
            return
        if "l" not in flags:
            self.say(path)
            return
        day = time.localtime(status.st_mtime)
        when = time.strftime("%a %b %d %H:%M:%S %Y" if "D" in flags else "%b %d %H:%M", day)
        kind = "drwx------" if local.is_dir() else "-rw-------"
        name = path if "N" in flags or "R" in flags else local.name
        self.say(f"{kind}   1 als       als       {status.st_size:>14} {when} {name}")

    def _position(self, path: str, folder: bool, status: os.stat_result) -> str:
        if folder:
            return f"DIRECTORY\t{path}"
        about = self.tape.about(path)
        written = time.strftime("%m/%d/%Y\t%H:%M:%S", time.localtime(about["created"]))
        fields = [
            "FILE", path, str(status.st_size), str(status.st_size), f"{about['section']}+0" if about["tape"] else "0",
            about["tape"], "4", "0", "1", written, written,
        ]  # fmt: skip
        return "\t".join(fields)

    def do_mkdir(self, words: list[str]) -> None:
        flags, names = flags_of(words)
        for path in [self.tape.absolute(name, self.cwd) for name in names]:
            with self.tape.command("hsi mkdir", path):
                try:
                    self.tape.local(path).mkdir(parents="p" in flags, exist_ok="p" in flags)
                except FileExistsError as error:
                    raise Failed(EX_USAGE, f"*** mkdir: File exists [-17: HPSS_EEXIST]\n    {path}") from error
                except FileNotFoundError as error:
                    raise self._missing(path, "hpss_Mkdir") from error

    def do_cd(self, words: list[str]) -> None:
        path = self.tape.absolute(words[0] if words else HOME, self.cwd)
        with self.tape.command("hsi cd", path):
            if not self.tape.local(path).is_dir():
                raise self._missing(path, "hpss_Chdir")
            self.cwd = path

    def do_pwd(self, words: list[str]) -> None:
        self.say(f"pwd0: {self.cwd}")

    def do_lcd(self, words: list[str]) -> None:
        try:
            os.chdir(words[0])
        except (OSError, IndexError) as error:
            raise Failed(EX_OSFILE, f"*** lcd: {error}") from error

    def do_rm(self, words: list[str]) -> None:
        for path in self._paths(flags_of(words)[1]):
            with self.tape.command("hsi rm", path):
                if not self.tape.local(path).is_file():
                    raise self._missing(path, "hpss_Unlink")
                self.tape.local(path).unlink()
                self.tape.forget(path)
                self.say(f"rm: {path}")

    def do_mv(self, words: list[str]) -> None:
        if len(words) != 2:
            raise Failed(EX_USAGE, "Usage: mv old new")
        old, new = (self.tape.absolute(word, self.cwd) for word in words)
        with self.tape.command("hsi mv", old):
            if not self.tape.local(old).exists() or not self.tape.local(new).parent.is_dir():
                raise self._missing(old, "hpss_Rename")
            self.tape.local(old).replace(self.tape.local(new))
            self.tape.moved(old, new)
            self.say(f"mv: {old} {new}")

    # transfers

    def do_put(self, words: list[str]) -> None:
        self._put(words, "put")

    def do_cput(self, words: list[str]) -> None:
        self._put(words, "cput")

    def _put(self, words: list[str], verb: str) -> None:
        flags, values, names = options_of(words, "AcFHMnTXY")
        for local, remote in pairs_of(names):
            path = self.tape.absolute(remote, self.cwd)
            with self.tape.command(f"hsi {verb}", path):
                self._store(local, path, verb, flags, values)

    def _store(self, local: str, path: str, verb: str, flags: set[str], values: dict[str, str]) -> None:
        source = Path(local)
        target = self.tape.local(path)
        if local != "-" and not source.is_file():
            raise Failed(EX_OSFILE, f"*** {verb}: Error -2 on stat of local file: No such file or directory: {local}")
        if not target.parent.is_dir():
            if "P" not in flags:
                raise self._missing(str(Path(path).parent), "hpss_Open")
            target.parent.mkdir(parents=True)
        if verb == "cput" and target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            return  # there already, and no older
        algorithm = values.get("H", "md5").lower() if values.get("c") == "on" else None
        digest = new_digest(algorithm) if algorithm else None
        with source.open("rb") if local != "-" else sys.stdin.buffer as file:
            try:
                with self.tape.writing(path) as write:
                    while block := file.read(BLOCK):
                        write(block)
                        if digest:
                            digest.update(block)
            except Quota as error:
                raise Failed(EX_IOERR, f"*** {verb}: Disk quota exceeded [-122: HPSS_EDQUOT]\n    {path}") from error
        stored = {"algorithm": algorithm, "digest": digest.hexdigest()} if digest else None
        self.tape.written(path, stored)
        self.tape.spoil(path)
        if not self.quiet:
            self.say(f"{verb}  '{local}' : '{path}' ( {target.stat().st_size} bytes )")

    def do_get(self, words: list[str]) -> None:
        self._get(words, "get")

    def do_cget(self, words: list[str]) -> None:
        self._get(words, "cget")

    def _get(self, words: list[str], verb: str) -> None:
        _, values, names = options_of(words, "cFTXY")
        for local, remote in pairs_of(names):
            path = self.tape.absolute(remote, self.cwd)
            with self.tape.command(f"hsi {verb}", path):
                self._fetch(local, path, verb, values)

    def _fetch(self, local: str, path: str, verb: str, values: dict[str, str]) -> None:
        source = self.tape.local(path)
        if not source.is_file():
            raise self._missing(path)
        if verb == "cget" and Path(local).exists() and Path(local).stat().st_mtime >= source.stat().st_mtime:
            return
        self.tape.reading(path)
        if local == "-":
            if self.popen:
                raise Failed(EX_USAGE, f"*** {verb}: output to stdout is not possible with -P")
            sys.stdout.buffer.write(source.read_bytes())
            return
        try:
            with source.open("rb") as file, Path(local).open("wb") as out:
                while block := file.read(BLOCK):
                    out.write(block)
        except OSError as error:
            raise Failed(73, f"*** {verb}: cannot write {local}: {error.strerror}") from error
        known = self.tape.about(path)["hash"]
        if values.get("c") == "on" and known and digest_of(source, known["algorithm"]) != known["digest"]:
            raise Failed(EX_SOFTWARE, f"*** {verb}: checksum mismatch for {path}")
        if not self.quiet:
            self.say(f"{verb}  '{local}' : '{path}' ( {source.stat().st_size} bytes )")

    # checksums

    def do_hashcreate(self, words: list[str]) -> None:
        _, values, names = options_of(words, "FHTY")
        algorithm = values.get("H", "md5").lower()
        for path in self._files(names, "hashcreate"):
            with self.tape.command("hsi hashcreate", path):
                self.tape.reading(path)
                digest = digest_of(self.tape.local(path), algorithm)
                about = self.tape.about(path)
                self.tape.box.put("hpss_file", path, {**about, "hash": {"algorithm": algorithm, "digest": digest}})
                self.say(f"{digest} ({algorithm}) {path}")

    def do_hashlist(self, words: list[str]) -> None:
        for path in self._files(options_of(words, "FHTY")[2], "hashlist"):
            with self.tape.command("hsi hashlist", path):
                known = self._hash(path, "hashlist")
                self.say(f"{known['digest']} {known['algorithm']} {path} [hsi]")

    def do_hashverify(self, words: list[str]) -> None:
        for path in self._files(options_of(words, "FHTY")[2], "hashverify"):
            with self.tape.command("hsi hashverify", path):
                known = self._hash(path, "hashverify")
                self.tape.reading(path)
                if digest_of(self.tape.local(path), known["algorithm"]) != known["digest"]:
                    raise Failed(EX_SOFTWARE, f"{path}: ({known['algorithm']}) FAILED")
                self.say(f"{path}: ({known['algorithm']}) OK")

    def _files(self, names: list[str], verb: str) -> list[str]:
        paths = self._paths(names)
        for path in paths:
            if not self.tape.local(path).exists():
                raise self._missing(path)
            if self.tape.local(path).is_dir():
                self.say(f"*** Warning: {path} is a directory - ignored")
        return [path for path in paths if self.tape.local(path).is_file()]

    def _hash(self, path: str, verb: str) -> Doc:
        known: Doc | None = self.tape.about(path)["hash"]
        if known is None:
            raise Failed(EX_USAGE, f"*** {verb}: no checksum is stored for {path}")
        return known

    # sessions

    def do_in(self, words: list[str]) -> None:
        try:
            lines = Path(words[0]).read_text().splitlines()
        except (OSError, IndexError) as error:
            raise Failed(66, f"*** in: cannot open input file: {error}") from error
        for line in lines:
            self.run(line)

    def do_quit(self, words: list[str]) -> None:
        raise Stop


def main(directory: str, words: list[str]) -> int:
    popen = quiet = False
    words = list(words)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in ("-h", "-s", "-a", "-d", "-l", "-O", "-k", "-A"):
            words[:1] = []
        popen, quiet = popen or option == "-P", quiet or option == "-q"
    tape = Tape(directory)
    hsi = Hsi(tape, popen, quiet)
    try:
        with tape.session():
            if tape.settings["down"]:
                raise Failed(EX_UNAVAILABLE, "")
            if words:
                hsi.run(" ".join(words))
            else:
                for line in sys.stdin:
                    hsi.run(line)
    except Stop:
        pass
    except Failed as failed:
        hsi._failed(failed)
    return hsi.code
