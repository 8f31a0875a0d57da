"""File names are hostile input: they reach their copy, a job's command line and the catalogue whole."""

from __future__ import annotations

from typing import Any

NAMES = [
    "with space.h5",
    'quote\'s "and" more.h5',
    "semi;colon & pipe|.h5",
    "$(touch pwned) `touch pwned`.h5",
    "-rf --out.h5",
    "*?[a-z]{b}.h5",
    "α 日本 é.h5",
    "back\\slash%41+#?.h5",
    "a..b...dots.h5",
    "n" * 245 + "_long.h5"[-10:],
    "ü" * 124 + "longx.h5"[-7:],
]


def test_every_name_survives_every_leg(rig: Any, simulated: tuple[bytes, bytes]) -> None:
    assert max(len(name.encode()) for name in NAMES) == 255
    names = [rig.scan(f"a folder;/{name}", roi=None) for name in NAMES]
    rig.spec = rig.spec.model_copy(update={"scans": rig.spec.scans.model_copy(update={"required": []})})
    keys = rig.notice(*names)
    ran = rig.run("raw_at_cfs")
    assert sorted(ran.keys) == sorted(keys) and not ran.failed
    rig.stand_in('printf "%s\\n" "$file" >> "$HOME/seen"')
    ran = rig.run("xpcs_result")
    assert sorted(ran.keys) == sorted(keys) and not ran.failed
    seen = (rig.sandbox.dir / "nersc" / "home" / "seen").read_text().splitlines()
    assert sorted(seen) == sorted(str(rig.cfs / name) for name in names)
    ran = rig.run("catalog_entry")
    assert sorted(ran.keys) == sorted(keys) and not ran.failed
    for key, name in zip(keys, names, strict=True):
        (raw, derived) = rig.document(key)["catalog"]
        (block,) = rig.services["scicat"]._blocks(raw["pid"])
        assert [(f["path"], bool(f.get("chk"))) for f in block["dataFileList"]] == [(name, True)]
        assert derived["type"] == "derived"
        assert (rig.results / name / "xpcs_result-r1" / "summary.json").exists()
    assert not list(rig.sandbox.dir.rglob("pwned*"))


def test_the_real_analysis_takes_such_names(rig: Any, simulated: tuple[bytes, bytes]) -> None:
    name = "-rf $(touch pwned) 'x'.h5"
    rig.real_analysis()
    rig.scan(name, *simulated)
    (key,) = rig.notice(name)
    rig.run("raw_at_cfs")
    ran = rig.run("xpcs_result")
    assert ran.keys == [key], ran.failed
    assert len(rig.document(key)["products"][0]["values"]["tau_s"]) == 4
