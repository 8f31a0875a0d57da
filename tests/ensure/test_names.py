"""File names are hostile input: they reach their copy, a job's command line, the tape and the catalogue whole.

`NAMES` go every leg and come back from tape; what no service could carry is refused where it is seen, and spoils
nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from beamlines.spec import Archive, Spec
from resources.ledger import products, refusals
from sandbox.jobs import login_environment

ARCHIVE = Archive(source="cfs", directives={"qos": "xfer", "constraint": "cron", "time": "60", "mem": "2G"})
NFC, NFD = unicodedata.normalize("NFC", "é.h5"), unicodedata.normalize("NFD", "é.h5")
NAMES = [
    "with space.h5",
    'quote\'s "and" more.h5',
    "semi;colon & pipe|.h5",
    "$(touch pwned) `touch pwned` $HOME.h5",
    "-rf --out.h5",
    "*?[a-z]{b}.h5",
    "α 日本.h5",
    NFC,
    NFD,
    "back\\slash%41+#?.h5",
    "a..b...dots.h5",
    " leading and trailing .h5",
    "line\u2028and\u0085separators\u202ereversed.h5",
    "n" * 245 + "_long.h5"[-10:],
    "ü" * 124 + "longx.h5"[-7:],
]


@pytest.fixture
def anything_goes(rig: Any) -> Any:
    """The rig for a beamline that archives, whose scans need no companions."""
    needs_none = {**rig.spec.scans.model_dump(), "required": []}
    rig.spec = Spec.model_validate({**rig.spec.model_dump(), "archive": ARCHIVE.model_dump(), "scans": needs_none})
    return rig


def restored(rig: Any, archive: str, into: Path) -> None:
    """What a person does: als-archive restore on a transfer node."""
    request = {"schema": "als-archive/1", "archive": archive, "out": str(into / "out"), "destination": str(into)}
    done = subprocess.run(
        ["als-archive", "restore"], input=json.dumps(request), capture_output=True, text=True, timeout=60,
        env=login_environment(rig.sandbox.box), cwd=into,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_name_survives_every_leg_and_comes_back_from_tape(anything_goes: Any, tmp_path: Path) -> None:
    rig = anything_goes
    assert max(len(name.encode()) for name in NAMES) == 255 and NFC != NFD
    names = [
        rig.scan(f"-a folder; $(touch pwned)/{name}", f"frames of {number}".encode(), roi=None)
        for number, name in enumerate(NAMES)
    ]
    keys = rig.notice(*names)
    assert len(set(keys)) == len(names)
    for asset in ("raw_at_cfs", "xpcs_result", "archived_at_hpss", "catalog_entry"):
        if asset == "xpcs_result":
            rig.stand_in('printf "%s\\n" "$file" >> "$HOME/seen"')
        ran = rig.run(asset)
        assert sorted(ran.keys) == sorted(keys) and not ran.failed, asset
    seen = (rig.sandbox.dir / "nersc" / "home" / "seen").read_text().split("\n")[:-1]
    assert sorted(seen) == sorted(str(rig.cfs / name) for name in names), "as the program was given them"
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        assert (rig.cfs / name).read_bytes() == f"frames of {number}".encode()
        assert (rig.results / name / "xpcs_result-r1" / "summary.json").exists()
        (raw, derived) = rig.document(key)["catalog"]
        (block,) = rig.services["scicat"]._blocks(raw["pid"])
        assert [(f["path"], bool(f.get("chk"))) for f in block["dataFileList"]] == [(name, True)]
        assert derived["type"] == "derived"
        with rig.ledger.read() as tx:
            archive = products.latest(tx, rig.found(key).id, "archived_at_hpss")
        assert archive is not None and archive.path is not None and archive.path.isascii()
        assert [m["name"] for m in archive.document["members"]] == [name]
        (entry,) = rig.services["scicat"].session.call("get", f"datasets/{quoted(raw['pid'])}/datablocks")
        assert [f["path"] for f in entry["dataFileList"]] == [name]
        back = tmp_path / f"back{number}"
        back.mkdir()
        restored(rig, archive.path, back)
        assert (back / name).read_bytes() == f"frames of {number}".encode()
    assert not list(rig.sandbox.dir.rglob("pwned*")) and not list(tmp_path.rglob("pwned*"))


def quoted(pid: str) -> str:
    return pid.replace("/", "%2F")


def test_the_real_analysis_takes_such_names(rig: Any, simulated: tuple[bytes, bytes]) -> None:
    name = "-rf $(touch pwned) 'x'.h5"
    rig.real_analysis()
    rig.scan(name, *simulated)
    (key,) = rig.notice(name)
    rig.run("raw_at_cfs")
    ran = rig.run("xpcs_result")
    assert ran.keys == [key], ran.failed
    assert len(rig.document(key)["products"][0]["values"]["tau_s"]) == 4


REFUSED = {
    b"line\nbreak.h5": "the name has a control character (newline, tab",
    b"tab\there.h5": "the name has a control character (newline, tab",
    b"escape\x1b[31m.h5": "the name has a control character (newline, tab",
    b"latin1 \xe9.h5": "the name is not valid UTF-8",
    b"half of a pair \xed\xa0\x80.h5": "the name is not valid UTF-8",
}


def test_names_that_no_service_can_carry_are_refused_by_name_and_spoil_nothing_else(anything_goes: Any) -> None:
    rig = anything_goes
    (rig.dtn / "day").mkdir(parents=True)
    for name in REFUSED:
        with open(os.fsencode(rig.dtn / "day") + b"/" + name, "wb") as out:  # noqa: PTH123 - no text has such a name
            out.write(b"frames")
    keys = rig.notice(rig.scan("day/good.h5", roi=None))
    assert [scan.key for scan in map(rig.found, rig.keys())] == keys == ["day/good.h5"]
    with rig.ledger.read() as tx:
        told = refusals.refused(tx, "bl7011")
    assert all(any(why.startswith(words) for words in REFUSED.values()) for why in told.values())
    assert len(told) == len(REFUSED)
    assert all(name.isascii() and "\n" not in name for name in told), "a terminal can show them"
    assert all("rename the file at the beamline" in why for why in told.values())
    for asset in ("raw_at_cfs", "xpcs_result", "archived_at_hpss", "catalog_entry"):
        ran = rig.run(asset)
        assert ran.keys == keys and not ran.failed
    assert {p.name for p in (rig.cfs / "day").iterdir()} == {"good.h5"}
