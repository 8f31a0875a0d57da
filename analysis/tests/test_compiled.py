"""Compiled code that is kept on disk: never of other sources than those that are there, and never a reason to fail."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import als_analysis
import pytest
from als_analysis.compiled import Kept
from als_analysis.xpcs import kernels_bins, precompile
from als_analysis.xpcs.cli import main
from numba.core.caching import NullCache

NUMBER = """
import numpy as np
NUMBER = 100
TABLE = np.arange(2) * 0
"""
HELPER = """
from als_analysis.compiled import compiled_part
from als_analysis.tried.number import NUMBER, TABLE
from numba.extending import intrinsic
from numba.core import types

def factor():
    return 1

def typed(context, x):
    def codegen(ctx, builder, signature, arguments):
        return builder.mul(arguments[0], ctx.get_constant(types.int64, factor()))
    return types.int64(types.int64), codegen

times = intrinsic(typed)

@compiled_part
def inner(x):
    return times(x) + 10 + NUMBER + TABLE[1]
"""
OUTER = """
from als_analysis.compiled import compiled
from als_analysis.tried.helper import inner

@compiled
def middle(x):
    return inner(x)

@compiled
def outer(x):
    return middle(x)

@compiled
def half(x):
    return x[0] / 2
"""
RUN = """
from als_analysis.tried.outer import outer
print(outer(1), sum(outer.stats.cache_hits.values()))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package, with a little module of its own."""
    package = tmp_path / "als_analysis"
    shutil.copytree(Path(als_analysis.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    tried = package / "tried"
    tried.mkdir()
    for name, text in {"__init__": "", "number": NUMBER, "helper": HELPER, "outer": OUTER}.items():
        (tried / f"{name}.py").write_text(text)
    return package


def run(package: Path, program: str = RUN, **environment: str) -> tuple[str, str]:
    """What is printed: the answer and whether it came from the disk; and what is said on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=package.parent,
        env={**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip
    return done.stdout.strip(), done.stderr


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_kept_code_is_taken_as_long_as_nothing_in_it_has_changed(installed: Path) -> None:
    assert run(installed) == ("111 0", "")
    (installed / "tried" / "unrelated.py").write_text("X = 1\n")
    assert run(installed) == ("111 1", "")
    tried = installed / "tried"
    replace(tried / "helper.py", "+ 10", "+ 20")
    assert run(installed) == ("121 0", ""), "a function that is called by one that it calls, in another file"
    replace(tried / "number.py", "100", "200")
    assert run(installed) == ("221 0", ""), "a number from a third file"
    replace(tried / "number.py", "* 0", "* 1000")
    assert run(installed) == ("1221 0", ""), "an array from there"
    replace(tried / "helper.py", "return 1\n", "return 2\n")
    assert run(installed) == ("1222 0", ""), "what an instruction is made with"


def test_without_a_folder_that_can_be_written_it_is_compiled_each_time(installed: Path) -> None:
    (installed / "tried" / "__pycache__").touch()  # so that there can be no such folder, not even for root
    out, err = run(installed, HOME="/dev/null", XDG_CACHE_HOME="/dev/null/cache")
    assert out == "111 0"
    assert err == ("als-analysis: compiled code cannot be kept: no folder can be written; set NUMBA_CACHE_DIR to one\n")
    assert run(installed, HOME="/dev/null", NUMBA_CACHE_DIR=str(installed / "kept")) == ("111 0", "")


def test_a_damaged_file_is_told_and_replaced(installed: Path) -> None:
    run(installed)
    for ending in ("nbi", "nbc"):
        for path in (installed / "tried" / "__pycache__").glob(f"*.{ending}"):
            path.write_bytes(path.read_bytes()[:60])
        out, err = run(installed)
        assert out == "111 0"
        assert err.startswith("als-analysis: compiled code cannot be kept in ") and err.count("\n") == 1
    assert run(installed) == ("111 1", "")


def test_code_for_other_types_is_not_taken(installed: Path) -> None:
    """As two processes leave it that compile for the first time at once, each in the belief to write the first file."""
    halves = """
import numpy as np
from als_analysis.tried.outer import half
print(half(np.array([{0}], dtype="{1}")), sum(half.stats.cache_hits.values()))
"""
    whole, real = halves.format(3, "int32"), halves.format(5, "float32")
    assert run(installed, whole) == ("1.5 0", "") and run(installed, real) == ("2.5 0", "")
    one, other = (installed / "tried" / "__pycache__").glob("outer.half-*.nbc")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    out, err = run(installed, whole)
    assert out == "1.5 0"
    assert "what is kept for (Array(int32" in err
    assert run(installed, real) == ("2.5 0", "") and run(installed, whole) == ("1.5 1", "")


def test_a_full_disk_is_told_and_nothing_else(installed: Path) -> None:
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    out, err = run(installed, f"{limit}resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n{RUN}")
    assert out == "111 0"
    assert "File too large" in err and err.count("\n") == 1


ELSEWHERE = """
import sys
from als_analysis.compiled import elsewhere
from als_analysis.tried.outer import outer
elsewhere([outer], [sys.executable, "-c", "import time\\n{there}"])
"""


def test_what_another_process_compiles_is_waited_for_and_taken(installed: Path) -> None:
    there = "time.sleep(0.5); from als_analysis.tried.outer import outer; outer(1); time.sleep(60)"
    assert run(installed, ELSEWHERE.format(there=there) + RUN) == ("111 1", ""), "not that it ends"


def test_a_process_that_compiles_nothing_is_not_missed(installed: Path) -> None:
    assert run(installed, ELSEWHERE.format(there="time.sleep(0.5); raise SystemExit(1)") + RUN) == ("111 0", "")
    noted = installed / "noted"
    assert run(installed, ELSEWHERE.format(there=f"open({str(noted)!r}, 'w')") + RUN) == ("111 1", "")
    assert not noted.exists(), "nothing is started for what is kept"


def test_a_process_that_hangs_is_not_waited_for_for_ever(installed: Path) -> None:
    patience = "import als_analysis.compiled\nals_analysis.compiled._PATIENCE_S = 0.2\n"
    assert run(installed, patience + ELSEWHERE.format(there="time.sleep(60)") + RUN) == ("111 0", "")


def test_whoever_ends_first_leaves_no_process(installed: Path) -> None:
    noted = installed / "noted"
    there = f"import os; open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    wait = (
        f"import os, time\nwhile not (os.path.exists({str(noted)!r}) and open({str(noted)!r}).read()): time.sleep(0.01)"
    )
    run(installed, ELSEWHERE.format(there=there) + wait)
    assert not Path(f"/proc/{noted.read_text()}").exists()


def test_what_is_compiled_ahead_is_what_an_analysis_calls(tmp_path: Path) -> None:
    """Of the same types, or it would be compiled twice."""
    program = f"""
from als_analysis.xpcs import kernels_bins, kernels_frames, kernels_sparse, precompile
from als_analysis.xpcs.cli import main
functions = [kernels_bins.reduce_tiles, kernels_frames.add_segments, kernels_sparse.add_events]
precompile.compile_now("sums")
print([len(f.signatures) for f in functions])
precompile.compile_now("events")
ahead = [f.signatures for f in functions]
print([len(kinds) for kinds in ahead])
import contextlib, io
raw = "{tmp_path}/s.h5"
for photons in ("5", "0.01"):
    with contextlib.redirect_stdout(io.StringIO()):
        main(["simulate", raw, "--frames", "300", "--photons", photons, "--dtype", "uint16", "--overwrite"])
        assert main(["corr", raw, "--out", "{tmp_path}/s.hdf", "--overwrite"]) == 0
assert [f.signatures for f in functions] == ahead
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[1, 1, 0]\n[1, 1, 1]\n", 0), done.stderr


def test_all_is_compiled_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile"]) == 0
    *kinds, last = capsys.readouterr().out.splitlines()
    assert [line.rpartition(":")[0] for line in kinds] == [
        "als_7011, float32, 8 photons per pixel",
        "aps_8idi, uint16, 8 photons per pixel",
        "aps_8idi, uint16, 0.01 photons per pixel",
        "aps_8idi, uint32, 8 photons per pixel",
        "aps_8idi, uint32, 0.01 photons per pixel",
        "imm-sparse, uint16, 0.01 photons per pixel",
    ]
    assert list(Path(last.removeprefix("kept in ")).rglob("kernels_bins.reduce_tiles-*.nbi"))


def test_a_place_where_nothing_can_be_kept_is_an_error_of_its_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precompile, "_KINDS", ())
    monkeypatch.setattr(kernels_bins.reduce_tiles, "_cache", NullCache())
    assert main(["compile"]) == 8
    assert "set NUMBA_CACHE_DIR to a folder that can be written and has room" in capsys.readouterr().err


def test_all_that_the_loops_of_this_package_name_is_part_of_what_they_are_kept_by() -> None:
    """A value of a kind that is not known there raises TypeError."""
    package = Path(als_analysis.__file__).parent
    for path in package.rglob("*.py"):
        if "als_analysis.compiled import" in path.read_text():
            name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
            importlib.import_module(name)
    caches = [one for one in gc.get_objects() if type(one) is Kept]
    assert len(caches) > 40
    assert len({cache._made_of for cache in caches}) > 20
