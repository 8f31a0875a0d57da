"""als-archive: which way a file goes to tape, by its name and size alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from als_analysis.failure import BadArguments
from als_analysis.hpss.commands import Answer
from als_analysis.hpss.errors import HpssRefused, HpssUnavailable, TryAgain
from als_analysis.hpss.members import fits_header, plan, tar_name
from als_analysis.hpss.request import Source, parse
from hypothesis import given
from hypothesis import strategies as st

ARCHIVE = "/home/a/als/x.tar"


def source(name: str, size: int = 1) -> Source:
    return Source(Path("/d") / name, name, size, None)


def test_the_limits_of_a_name_are_99_bytes_after_a_prefix_of_154() -> None:
    assert fits_header("n" * 99) and not fits_header("n" * 100)
    assert fits_header("p" * 154 + "/" + "n" * 99) and not fits_header("p" * 155 + "/" + "n")
    assert not fits_header("p/" + "n" * 100)
    assert fits_header("/".join(["p" * 40] * 5))


def test_5_the_member_limit_is_the_last_size_that_htar_takes() -> None:
    limit = 68_719_476_735
    planned = plan(ARCHIVE, [source("a", limit), source("b", limit + 1)], limit)
    assert [how for _, how, _ in planned] == ["htar", "cput"]
    assert planned[1][2] == ARCHIVE + ".file00002"


def test_plain_names_stay_as_they_are() -> None:
    for name in ("a b;c.h5", "per%cent", "q'u\"o", "$HOME", "#x", "d/e/f"):
        assert tar_name(name) == name
    assert tar_name("-x/ü y%\t") == "%2Dx/%C3%BC%20y%25%09"
    assert tar_name("a ") == "a%20" and tar_name(" a") == "%20a"


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\n\r\0"), min_size=1), unique=True)
)
def test_every_file_has_a_place_of_its_own_that_the_tools_can_take(names: list[str]) -> None:
    planned = plan(ARCHIVE, [source(name) for name in names], 10)
    places = [(how, path) for _, how, path in planned]
    assert len(set(places)) == len(names)
    for how, path in places:
        if how == "htar":
            assert path.isascii() and path.isprintable() and path == path.strip() and not path.startswith("-")
            assert fits_header(path)


def request(**changes: Any) -> str:
    file = {"path": "/d/a", "name": "a", "bytes": 1, "sha256": None}
    document = {"schema": "als-archive/1", "archive": ARCHIVE, "files": [file], "out": "/out"}
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    "name",
    ["a\nb", "a\rb", "\udcff", "/abs", "../up", "a/../b", "./a", "a//b", "", "a/", "..", "a\0", None, "a/b"],
)
def test_a_name_with_a_line_break_or_a_way_out_or_a_double_is_refused(name: str | None) -> None:
    files = [{"path": "/d/x", "name": n, "bytes": 1, "sha256": None} for n in ("a", name)]
    with pytest.raises(BadArguments, match=r"name|member"):
        parse(request(files=files), "store")


@pytest.mark.parametrize(
    "wrong",
    [
        {"archive": "relative.tar"}, {"archive": "/a/b"}, {"archive": "/a b/x.tar"}, {"archive": "/a/../x.tar"},
        {"archive": "/a/x;rm.tar"}, {"archive": "/a/-x.tar"}, {"archive": "/a/ü.tar"}, {"archive": "/a/x*.tar"},
        {"archive": "/a/x.tar\n"}, {"files": []}, {"files": None}, {"files": [1]}, {"out": "x"}, {"out": "/a/../b"},
        {"schema": "als-archive/2"}, {"manifest": []}, {"member_limit": 8**12},
        {"files": [{"path": "/d/a", "name": "a", "bytes": -1}]},
        {"files": [{"path": "/d/a", "name": "a", "bytes": 1, "sha256": "x"}]},
        {"files": [{"path": "d/a", "name": "a", "bytes": 1}]},
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_the_field_at_fault(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArguments, match=f"field {next(iter(wrong))}"):
        parse(request(**wrong), "store")


def test_9_what_the_tools_say_decides_before_their_exit_code() -> None:
    down = "Unable to setup communication to HPSS...\nERROR (main) unable to open remote gateway server connection"
    assert isinstance(Answer("htar", 70, down).trouble(), HpssUnavailable)
    assert isinstance(Answer("hsi", 69, "").trouble(), HpssUnavailable)
    assert isinstance(Answer("hsi", 75, "").trouble(), TryAgain)
    assert isinstance(Answer("htar", -9, "").trouble(), TryAgain)
    assert isinstance(Answer("htar", 70, "ERROR: [-122: HPSS_EDQUOT]").trouble(), HpssRefused)
    assert Answer("htar", 70, "Warning: name too long").trouble() is None
    assert Answer("hsi", 64, "[-2: HPSS_ENOENT]").trouble() is None
    assert Answer("hsi", 0, down).trouble() is None


def test_the_program_needs_the_standard_library_only() -> None:
    """It runs on a transfer node, in 2 GB, where the numerical libraries may be another machine's."""
    code = "import sys, als_analysis.archive; print([m for m in ('numpy', 'h5py', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", ["store", "verify", "restore"])
def test_a_request_that_is_no_json_is_exit_2_with_one_line(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "als_analysis.archive", verb], input="{", capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("als-archive: request: not JSON") and done.stdout == ""
