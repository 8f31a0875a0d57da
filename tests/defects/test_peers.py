"""Defects of other data platforms that moved real data, each as a requirement; the numbers are those of the reference.

Those about deletion are in tests/pruning, those about noticing in tests/noticing; test_numbers.py sees that none lacks.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from als import platform
from als_assets import families
from resources.ledger import Ledger, steps

ROOT = Path(__file__).resolve().parents[2]
OURS = ["als", "als_assets", "sensors", "resources", "beamlines", "analysis/als_analysis"]


def test_defect_01_a_transfer_that_failed_is_no_copy_and_nothing_goes_on_from_it(rig: Any) -> None:
    """`task_wait` is True on FAILED; here the state is read, and each file is asked for."""
    (key,) = rig.noticed()
    rig.attempts_allowed(1)
    rig.sandbox.fault("transfer", "task_failed", count=-1)
    ran = rig.run("raw_at_cfs")
    assert ran.made == [] and key in ran.failed
    assert {c["place"] for c in rig.document(key)["copies"] if c["verified_at"]} == set()
    assert rig.step(key, "xpcs_result").state == steps.BLOCKED
    assert not rig.document(key)["safe"]


def test_defect_01_a_task_that_says_succeeded_and_left_a_file_out_is_no_copy(rig: Any) -> None:
    (key,) = rig.noticed()
    rig.attempts_allowed(1)
    engine = rig.engine("raw_at_cfs")
    real = engine.family.globus.successful_files
    object.__setattr__(engine.family.globus, "successful_files", lambda task_id: list(real(task_id))[:1])
    try:
        ran = rig.run("raw_at_cfs", engine=engine)
    finally:
        object.__delattr__(engine.family.globus, "successful_files")
    assert "succeeded without saying that it transferred" in ran.failed[key]


def test_defect_02_a_file_that_was_damaged_on_its_way_is_noticed_and_arrives_whole(rig: Any) -> None:
    """With verify_checksum, which is asked for in so many words."""
    (key,) = rig.noticed()
    rig.pace(stall_s=30)
    rig.sandbox.fault("transfer", "checksum_mismatch", path="*/day/s000.h5", count=1)
    assert rig.run("raw_at_cfs").keys == [key]
    digest = [hashlib.sha256((disk / key).read_bytes()).hexdigest() for disk in (rig.dtn, rig.cfs)]
    assert digest[0] == digest[1]
    (copy,) = [c for c in rig.document(key)["copies"] if c["place"] == "cfs" and c["path"].endswith(key)]
    assert copy["verified_by"] == "globus-checksum"


def test_defect_02_a_copy_of_another_size_is_no_copy_whatever_globus_says(rig: Any) -> None:
    (key,) = rig.noticed()
    engine = rig.engine("raw_at_cfs")
    real = engine.family.target.sizes

    def shorter(paths: Any) -> Any:
        (rig.cfs / key).write_bytes(b"")
        return real(paths)

    real_collect = engine.family.collect

    def collect(task: Any, pairs: Any) -> Any:
        object.__setattr__(engine.family.target, "sizes", shorter)
        return real_collect(task, pairs)

    engine.family.collect = collect
    ran = rig.run("raw_at_cfs", engine=engine)
    assert ran.made == [] and "has 0 bytes, the scan's file has 16 bytes" in ran.failed[key]


def test_defect_07_an_entry_that_cannot_be_made_for_a_mistake_of_ours_is_loud(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An argument was named differently, and the exception was swallowed: for months nothing was in the catalogue."""
    (key,) = rig.copied()
    rig.attempts_allowed(1)

    def misnamed(self: Any, *arguments: Any) -> None:
        raise TypeError("ensure_origdatablock() got an unexpected keyword argument 'proposal'")

    monkeypatch.setattr(type(rig.services["scicat"]), "ensure_origdatablock", misnamed)
    with pytest.raises(ExceptionGroup, match="unexpected keyword argument"):
        rig.run("catalog_entry")
    step = rig.step(key, "catalog_entry")
    assert step.state == steps.FAILED and "met a bug: TypeError: ensure_origdatablock()" in step.why


def test_defect_08_a_transfer_may_take_as_long_as_it_takes(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait of 600 s that calls it failed while it goes on: the run ends, the task goes on."""
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", "slow_transfer", delay=4, path="*/day/s000.h5")
    rig.pace(stall_s=600)
    rig.run("raw_at_cfs", patient=False)
    now = Ledger.now
    monkeypatch.setattr(Ledger, "now", lambda self: now(self) + timedelta(hours=30))
    rig.follow(2)
    rig.run("raw_at_cfs", patient=False)
    (task,) = rig.tasks(key)
    assert task.live and rig.step(key, "raw_at_cfs").state == steps.IN_FLIGHT
    assert rig.run("raw_at_cfs").keys == [key]
    assert len(rig.tasks(key)) == 1 and rig.executed_once() == 1


def test_defect_09_no_finally_swallows_an_exception_and_no_handler_passes_over_every_one() -> None:
    """`return`, `break` or `continue` in a finally drops the exception that is on its way."""
    found = []
    for file in (file for part in OURS for file in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Try):
                found += [f"{file}:{bad.lineno}" for part in node.finalbody for bad in leaves(part)]
            if isinstance(node, ast.ExceptHandler) and swallows_all(node):
                found.append(f"{file}:{node.lineno}")
    assert found == []


def leaves(node: ast.AST, loop: bool = False) -> list[ast.stmt]:
    """Statements that leave a finally block by another way than its end."""
    if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not loop):
        return [node]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    inner = loop or isinstance(node, ast.For | ast.While)
    return [bad for child in ast.iter_child_nodes(node) for bad in leaves(child, inner)]


def swallows_all(handler: ast.ExceptHandler) -> bool:
    """`except Exception: pass` in all its forms: everything is caught, and nothing is done with it."""
    caught = "BaseException" if handler.type is None else ast.unparse(handler.type)
    return caught in ("Exception", "BaseException") and all(
        isinstance(part, ast.Pass | ast.Continue) for part in handler.body
    )


def test_defect_12_every_analysis_of_every_beamline_can_start_with_the_arguments_that_it_is_given(rig: Any) -> None:
    """The real program reads its real command line: it misses the file (3), and no argument (2)."""
    (key,) = rig.copied()
    for beamline, spec in platform.specs().items():
        for asset in (asset for asset in spec.assets() if asset.analysis is not None):
            family = families.family(spec, asset, rig.facilities, rig.ledger, rig.services)
            request = family._request(rig.step(key, "xpcs_result"), rig.found(key))("als-bl7011-xpcs-0")
            (command,) = request["job"]["commands"]
            argv = [word.replace(str(rig.cfs), str(rig.folder / "nowhere")) for word in command["argv"]]
            program = Path(sys.executable).parent / argv[0]
            done = subprocess.run([program, *argv[1:]], capture_output=True, text=True, timeout=60)
            assert done.returncode == 3, (beamline, asset.name, done.stderr[-500:])
