"""`htar`: tar archives that are written to tape and read from it, member by member, with an index beside them."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sandbox.box import Doc
from sandbox.hpss import ustar
from sandbox.hpss.tape import BLOCK, EX_OSFILE, EX_SOFTWARE, EX_UNAVAILABLE, EX_USAGE, Failed, Quota, Tape

ACTIONS = "ctxKX"
WITH_VALUE = "fILHMYSTdn"
FLAGS = "BEhmoOpPqVvw"
USAGE = "Usage: htar -{c|t|x|K|X} [-P] [-h] [-q] [-v] [-H opt[:opt...]] [-L inputlist] -f archive [file ...]"
UNREACHABLE = (
    "result = -11000, errno = 111\nUnable to setup communication to HPSS...\n"
    "ERROR (main) unable to open remote gateway server connection\nHTAR: HTAR FAILED"
)
MEMBERS = 1_000_000


class Options:
    """The command line: `action`, the values by letter, the flags that are on, and the names that follow."""

    def __init__(self, words: list[str]) -> None:
        self.values: dict[str, str] = {}
        self.special: dict[str, str] = {}
        self.flags: set[str] = set()
        actions = []
        words = list(words)
        if words and words[0][:1] in ACTIONS:
            words[0] = "-" + words[0]
        while words and words[0].startswith("-") and words[0] != "-":
            letters = words.pop(0)[1:]
            for at, letter in enumerate(letters):
                if letter in ACTIONS:
                    actions.append(letter)
                elif letter in FLAGS:
                    self.flags.add(letter)
                elif letter in WITH_VALUE:
                    value = letters[at + 1 :] or (words.pop(0) if words else "")
                    if not value:
                        raise Failed(EX_USAGE, f"ERROR: option -{letter} needs a value\n{USAGE}")
                    self._keep(letter, value)
                    break
                else:
                    raise Failed(EX_USAGE, f"ERROR: unknown option -{letter}\n{USAGE}")
        if len(actions) != 1 or "f" not in self.values:
            raise Failed(EX_USAGE, f"ERROR: exactly one action and -f are needed\n{USAGE}")
        self.action = actions[0]
        self.names = words + self._listed()

    def _keep(self, letter: str, value: str) -> None:
        if letter != "H":
            self.values[letter] = value
            return
        for option in value.split(":"):
            name, _, given = option.partition("=")
            self.special[name] = given

    def _listed(self) -> list[str]:
        if "L" not in self.values:
            return []
        try:
            content = sys.stdin.buffer.read() if self.values["L"] == "-" else Path(self.values["L"]).read_bytes()
        except OSError as error:
            raise Failed(EX_OSFILE, f"ERROR: cannot open input list: {error}") from error
        names = [os.fsdecode(line.strip(b" \t\r")) for line in content.split(b"\n")]
        names = [name for name in names if name]
        if any(name.startswith("-") for name in names):
            raise Failed(EX_USAGE, "ERROR: option in input list is not allowed here")
        return names

    def checks(self) -> set[str]:
        """What -Hverify asks for: info, crc, compare."""
        wanted: set[str] = set()
        for word in self.special.get("verify", "").split(","):
            if word in ("all", "2"):
                wanted |= {"info", "crc", "compare"}
            elif word == "1":
                wanted |= {"info", "crc"}
            elif word == "0":
                wanted.add("info")
            elif word.startswith("no"):
                wanted.discard(word[2:])
            elif word in ("info", "crc", "compare"):
                wanted.add(word)
            elif word:
                raise Failed(EX_USAGE, f"ERROR: invalid -Hverify option {word}")
        return wanted


class Htar:
    def __init__(self, tape: Tape, options: Options) -> None:
        self.tape, self.options = tape, options
        self.archive = tape.absolute(options.values["f"])
        self.index = tape.absolute(options.values.get("I", self.archive + ".idx"))
        self.code = 0

    def say(self, text: str, always: bool = False) -> None:
        if always or "v" in self.options.flags:
            print(f"HTAR: {text}")

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr)

    # -c

    def create(self) -> None:
        parent = self.tape.local(self.archive).parent
        if not parent.is_dir():
            if "P" not in self.options.flags:
                raise Failed(EX_OSFILE, "ERROR: Nonexistent path (do you need -P?)\nHTAR: HTAR FAILED")
            parent.mkdir(parents=True, exist_ok=True)
        if not self.options.names:
            raise Failed(EX_SOFTWARE, "ERROR: refusing to create empty archive\nHTAR: HTAR FAILED")
        members = self._members()
        files = [entry for entry in members if entry["type"] == "0"]
        if len(members) > int(self.options.values.get("M", MEMBERS)):
            raise Failed(EX_SOFTWARE, "ERROR: maximum number of member files exceeded\nHTAR: HTAR FAILED")
        check = f"{os.environ.get('TMPDIR', '/tmp')}/HTAR_CF_CHK_{os.getpid()}_{int(time.time())}"
        content = check.encode()[:256].ljust(256, b"\0")
        members.append({**_mine(check, 256), "content": content})
        self.tape.local(self.index).unlink(missing_ok=True)
        total = 0
        with self.tape.writing(self.archive) as write:
            for entry in members:
                write(ustar.header(entry, os.fsencode(entry["name"])))
                entry["offset"] = total + ustar.BLOCK
                entry["crc"] = self._copy(entry, write)
                total += ustar.BLOCK + ustar.padded(entry["size"])
                self.say(f"a   {entry['name']}{'/' if entry['type'] == '5' else ''}")
            write(ustar.END)
        self._write_index(members)
        self.tape.written(self.archive)
        self.tape.spoil(self.archive)
        print(f"HTAR Create complete for {self.archive}. {total:,} bytes written for {len(files)} member files")
        if self.options.checks():
            self.verify(self.options.checks())

    def _members(self) -> list[Doc]:
        """What goes into the archive, in order; directories with all that is in them."""
        found: list[Doc] = []
        for name in self._expanded():
            try:
                status = Path(name).stat(follow_symlinks="h" in self.options.flags)
            except OSError as error:
                raise Failed(EX_OSFILE, f"ERROR: {name}: {error.strerror}\nHTAR: HTAR FAILED") from error
            entry = _entry(name, status)
            if entry["size"] > int(self.tape.settings["member_limit"]):
                text = f"ERROR: File {name} ({entry['size']} bytes) exceeds the maximum member file size"
                raise Failed(EX_SOFTWARE, f"{text}\nHTAR: HTAR FAILED")
            if ustar.split_name(os.fsencode(name)) is None or len(os.fsencode(entry["link"])) > ustar.LINK_LIMIT:
                self.warn(f"INFO:\nWarning: name too long for tar archive- file omitted\nINFO:\n[{name}]")
                self.code = EX_SOFTWARE
                continue
            found.append(entry)
        if fault := self.tape.fault("omit_members", self.archive):
            chosen = fault.get("members", 1)
            names = set(chosen) if isinstance(chosen, list) else {entry["name"] for entry in found[-int(chosen) :]}
            self.code = int(fault.get("exit", EX_SOFTWARE))
            return [entry for entry in found if entry["name"] not in names]
        return found

    def _expanded(self) -> list[str]:
        names: list[str] = []
        for name in self.options.names:
            names.append(name)
            if Path(name).is_dir() and ("h" in self.options.flags or not Path(name).is_symlink()):
                for directory, folders, files in os.walk(name):
                    names.extend(f"{directory}/{inner}" for inner in (*sorted(folders), *sorted(files)))
        return names

    def _copy(self, entry: Doc, write: Callable[[bytes], object]) -> int | None:
        crc, left = 0, int(entry["size"])
        if "content" in entry:
            content = entry.pop("content")
            write(content)
            crc, left = zlib.crc32(content), 0
        elif left:
            with Path(entry["name"]).open("rb") as source:
                while left and (block := source.read(min(BLOCK, left))):
                    write(block)
                    crc, left = zlib.crc32(block, crc), left - len(block)
        if left:
            raise Failed(EX_SOFTWARE, f"ERROR: {entry['name']}: file shrank while it was read\nHTAR: HTAR FAILED")
        write(bytes(ustar.padded(entry["size"]) - entry["size"]))
        return crc if "crc" in self.options.special and entry["type"] == "0" else None

    # the index

    def _write_index(self, members: list[Doc]) -> None:
        lines = [json.dumps({"stand_in_index": 1, "archive": self.archive}), *(json.dumps(m) for m in members)]
        with self.tape.writing(self.index) as write:
            write(("\n".join(lines) + "\n").encode())
        self.tape.written(self.index)

    def _read_index(self) -> list[Doc]:
        self.tape.spoil(self.index)
        try:
            lines = self.tape.local(self.index).read_text().splitlines()
            return [json.loads(line) for line in lines[1:]]
        except FileNotFoundError as error:
            text = f"ERROR: No such file: {self.index}\nERROR: Fatal error opening index file: {self.index}"
            raise Failed(EX_SOFTWARE, f"{text}\nHTAR: HTAR FAILED") from error
        except ValueError as error:
            raise Failed(EX_SOFTWARE, f"ERROR: index file {self.index} is damaged\nHTAR: HTAR FAILED") from error

    def rebuild(self) -> None:
        with self._opened() as file:
            members = ustar.entries(file)
        for entry in members:
            self.say(f"i {entry['name']}")
        self._write_index(members)
        size = self.tape.local(self.archive).stat().st_size
        print(f"HTAR: Build Index complete for {self.archive}, {len(members)} total objects, size={size:,} bytes")

    # -t, -K, -x

    def table(self) -> None:
        members = self._chosen(self._read_index())
        for e in members:
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(e["mtime"]))
            slash = "/" if e["type"] == "5" else ""
            line = f"{ustar.mode_string(e)}  {e['user']}/{e['group']} {e['size']:>10} {day}  {e['name']}{slash}"
            self.say(line, always=True)
        self.say(f"Listing complete for {self.archive}, {len(members)} files {len(members)} total objects")

    def _chosen(self, members: list[Doc]) -> list[Doc]:
        """The members that were asked for; those that are not there are passed over in silence."""
        wanted = set(self.options.names)
        if not wanted:
            return members
        folders = tuple(name.rstrip("/") + "/" for name in wanted)
        return [entry for entry in members if entry["name"] in wanted or entry["name"].startswith(folders)]

    def _opened(self) -> BinaryIO:
        if not self.tape.local(self.archive).is_file():
            raise Failed(EX_SOFTWARE, f"ERROR: No such file: {self.archive}\nHTAR: HTAR FAILED")
        self.tape.reading(self.archive)
        return self.tape.local(self.archive).open("rb")

    def verify(self, checks: set[str]) -> None:
        members = self._chosen(self._read_index())
        with self._opened() as file:
            for entry in members:
                self._verify_member(file, entry, checks)
                blocks = entry["size"] // ustar.BLOCK
                self.say(f"V {entry['name']}, {entry['size']} bytes, {blocks + 1} media blocks")
        print(f"HTAR: Verify complete. {len(members)} total objects")

    def _verify_member(self, file: BinaryIO, entry: Doc, checks: set[str]) -> None:
        name = entry["name"]
        file.seek(entry["offset"] - ustar.BLOCK)
        known = ustar.parse(file.read(ustar.BLOCK))
        if known is None or (known["name"], known["size"]) != (name, entry["size"]):
            raise Failed(EX_SOFTWARE, f"ERROR: Verify: header of {name} differs from the index\nHTAR: HTAR FAILED")
        if "crc" in checks and entry["crc"] is not None and _crc(file, entry) != entry["crc"]:
            raise Failed(EX_SOFTWARE, f"ERROR: Verify: CRC mismatch for {name}\nHTAR: HTAR FAILED")
        if "compare" in checks and entry["type"] == "0" and "HTAR_CF_CHK_" not in name:
            file.seek(entry["offset"])
            try:
                same = Path(name).read_bytes() == file.read(entry["size"])
            except OSError as error:
                raise Failed(EX_SOFTWARE, f"ERROR: Verify: {name}: {error.strerror}\nHTAR: HTAR FAILED") from error
            if not same:
                raise Failed(EX_SOFTWARE, f"ERROR: Verify: local file {name} differs\nHTAR: HTAR FAILED")

    def extract(self) -> None:
        members = [e for e in self._chosen(self._read_index()) if "HTAR_CF_CHK_" not in e["name"]]
        total = 0
        with self._opened() as file:
            for entry in members:
                self._extract_member(file, entry)
                total += entry["size"]
                blocks = entry["size"] // ustar.BLOCK + 1
                self.say(f"x {entry['name']}, {entry['size']} bytes, {blocks} media blocks")
        print(f"HTAR: Extract complete for {self.archive}, {len(members)} files. total bytes read: {total:,}")

    def _extract_member(self, file: BinaryIO, entry: Doc) -> None:
        target = Path(entry["name"])
        if entry["type"] == "5":
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry["type"] == "2":
            target.unlink(missing_ok=True)
            target.symlink_to(entry["link"])
            return
        file.seek(entry["offset"])
        left = int(entry["size"])
        with target.open("wb") as out:
            while left and (block := file.read(min(BLOCK, left))):
                out.write(block)
                left -= len(block)
        if left:
            raise Failed(EX_SOFTWARE, f"ERROR: unexpected end of {self.archive} in {target}\nHTAR: HTAR FAILED")
        target.chmod(entry["mode"] & 0o777)
        if "m" not in self.options.flags:
            os.utime(target, (entry["mtime"], entry["mtime"]))
        if "crc" in self.options.checks() and entry["crc"] is not None and _crc(file, entry) != entry["crc"]:
            raise Failed(EX_SOFTWARE, f"ERROR: CRC mismatch for {target}\nHTAR: HTAR FAILED")


def _crc(file: BinaryIO, entry: Doc) -> int:
    file.seek(entry["offset"])
    crc, left = 0, int(entry["size"])
    while left and (block := file.read(min(BLOCK, left))):
        crc, left = zlib.crc32(block, crc), left - len(block)
    return -1 if left else crc


def _entry(name: str, status: os.stat_result) -> Doc:
    kind = "5" if stat.S_ISDIR(status.st_mode) else "2" if stat.S_ISLNK(status.st_mode) else "0"
    entry = _mine(name, status.st_size if kind == "0" else 0)
    entry.update(mode=stat.S_IMODE(status.st_mode), mtime=int(status.st_mtime), type=kind)
    if kind == "2":
        entry["link"] = str(Path(name).readlink())
    return entry


def _mine(name: str, size: int) -> Doc:
    def known(look_up: Callable[[int], Any], number: int) -> str:
        try:
            return str(look_up(number)[0])
        except KeyError:
            return str(number)

    return {
        "name": name, "size": size, "mode": 0o600, "uid": os.getuid() % 8**7, "gid": os.getgid() % 8**7, "type": "0",
        "mtime": int(time.time()), "link": "", "user": known(pwd.getpwuid, os.getuid()),
        "group": known(grp.getgrgid, os.getgid()),
    }  # fmt: skip


def main(directory: str, words: list[str]) -> int:
    if "-?" in words or not words:
        print(USAGE)
        return 0 if words else EX_USAGE
    try:
        options = Options(words)
        tape = Tape(directory)
        htar = Htar(tape, options)
        actions: dict[str, Callable[[], None]] = {
            "c": htar.create, "t": htar.table, "x": htar.extract, "X": htar.rebuild,
            "K": lambda: htar.verify(options.checks()),
        }  # fmt: skip
        with tape.session(), tape.command(f"htar -{options.action}", htar.archive):
            actions[options.action]()
    except Quota:
        print("ERROR: writing to HPSS: Disk quota exceeded [-122: HPSS_EDQUOT]\nHTAR: HTAR FAILED", file=sys.stderr)
        return EX_SOFTWARE
    except Failed as failed:
        sys.stdout.flush()
        if failed.code == EX_UNAVAILABLE:
            print(UNREACHABLE, file=sys.stderr)
            return EX_SOFTWARE
        print(failed.text, file=sys.stderr)
        return failed.code
    if "q" not in options.flags:
        print("HTAR: HTAR SUCCESSFUL")
    return htar.code
