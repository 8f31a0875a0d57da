"""als-xpcs stopped in the middle: it ends with 75, and the same command goes on to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from als_analysis.xpcs import run as runs
from als_analysis.xpcs import twotime
from als_analysis.xpcs.cli import main
from als_analysis.xpcs.movie_file import write_movie
from als_analysis.xpcs.simulate import Movie


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "in put" / "scan.h5"
    write_movie(Movie(frames=80, side=48, rings=2), path)
    return path


def corr(scan: Path, *more: str) -> tuple[int, Path]:
    out = scan.parent.parent / "out" / "r.hdf"
    return main(["corr", str(scan), "--out", str(out), "--sha256", "none", *more]), out


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def results_equal(one: Path, other: Path) -> bool:
    same = []
    with h5py.File(one) as a, h5py.File(other) as b:

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and not name.startswith("xpcs/provenance"):
                same.append(np.array_equal(node[()], b[name][()], equal_nan=node.dtype.kind == "f"))

        a.visititems(visit)
    return all(same) and len(same) > 20


def short_blocks(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("als_analysis.xpcs.events.MOST_KEPT", most)
    for name in ("_MOST_FRAMES", "FRAMES_IN_BLOCK"):
        monkeypatch.setattr(f"als_analysis.xpcs.corr.{name}", 32)
    # frames first; the other order is stopped in test_by_pixels
    monkeypatch.setattr("als_analysis.xpcs.corr._blocks_of", lambda *a: None)


@pytest.mark.parametrize(("photons", "most"), [(100.0, 0), (0.01, 1 << 20), (0.01, 1000)])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photons: float, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "scan.h5"
    write_movie(Movie(frames=400, side=48, rings=2, photons=photons, dtype="uint16"), scan)
    short_blocks(monkeypatch, most)
    arguments = ["corr", str(scan), "--sha256", "none", "--threads", "2", "--out"]
    assert main([*arguments, str(tmp_path / "whole.hdf")]) == 0

    class Told(runs.StopSignal):
        asked = 0

        def install(self) -> Told:
            return self

        def __bool__(self) -> bool:
            self.asked += 1
            return self.asked >= 7

    monkeypatch.setattr("als_analysis.xpcs.progress.StopSignal", Told)
    stopped = tmp_path / "stopped.hdf"
    assert main([*arguments, str(stopped)]) == 75
    assert "stopped after frame" in last_line(capsys)
    assert not stopped.exists() and stopped.with_name("stopped.hdf.checkpoint").exists()
    monkeypatch.undo()
    short_blocks(monkeypatch, most)
    begun: list[int] = []
    real = runs.correlate
    monkeypatch.setattr(
        runs, "correlate", lambda *a, **k: real(*a[:4], lambda done, of: begun.append(done), *a[5:], **k)
    )
    assert main([*arguments, str(stopped)]) == 0
    assert begun[0] > 100 and results_equal(tmp_path / "whole.hdf", stopped)
    assert not stopped.with_name("stopped.hdf.checkpoint").exists()


def test_a_checkpoint_of_another_run_is_not_used(
    tmp_path: Path, scan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = corr(scan)
    reference = out.rename(tmp_path / "reference.hdf")
    np.savez(out.parent / "r", identity=np.array("{}"))
    (out.parent / "r.npz").rename(out.with_name("r.hdf.checkpoint"))
    assert code == 0 and corr(scan)[0] == 0
    assert "of another run" in capsys.readouterr().err and results_equal(reference, out)


@pytest.mark.parametrize("kind", ["twotime", "both"])
def test_a_stopped_two_time_run_keeps_its_finished_bins_and_ends_with_the_same_bits(
    scan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    # memory for one bin at a time: the frames are read anew for each
    monkeypatch.setattr("als_analysis.xpcs.twotime._USUAL_BYTES", 2 * 4 * 80 * 1000)
    code, out = corr(scan, "--type", kind, "--threads", "2")
    assert code == 0
    whole = out.rename(scan.with_name("whole.hdf"))
    finished: list[int] = []
    real = twotime._Map.finish
    monkeypatch.setattr(
        twotime._Map, "finish", lambda self, bin_, workers: (finished.append(bin_), real(self, bin_, workers))[1]
    )

    class ToldAfterOneBin(runs.StopSignal):
        def install(self) -> ToldAfterOneBin:
            return self

        def __bool__(self) -> bool:
            return len(finished) >= 1

    monkeypatch.setattr("als_analysis.xpcs.progress.StopSignal", ToldAfterOneBin)
    assert corr(scan, "--type", kind, "--threads", "2")[0] == 75
    assert "finished bins" in last_line(capsys)
    kept = out.with_name(out.name + ".checkpoint.maps")
    assert not out.exists() and kept.exists() and finished == [1]
    monkeypatch.setattr("als_analysis.xpcs.progress.StopSignal", runs.StopSignal)
    assert corr(scan, "--type", kind, "--threads", "2")[0] == 0
    assert finished == [1, 2], "the finished bin was not computed again"
    assert results_equal(whole, out) and not kept.exists()


def test_the_maps_of_another_run_are_not_used(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = corr(scan, "--type", "both")
    whole = out.rename(scan.with_name("whole.hdf"))
    with h5py.File(out.with_name(out.name + ".checkpoint.maps"), "w") as file:
        file.create_group("/checkpoint").attrs["identity"] = "{}"
    assert code == 0 and corr(scan, "--type", "both")[0] == 0
    assert "of another run" in capsys.readouterr().err and results_equal(whole, out)


def test_sigterm_ends_a_process_with_75(tmp_path: Path) -> None:
    scan, status = tmp_path / "scan.h5", tmp_path / "status.json"
    write_movie(Movie(frames=3000, side=96, photons=5.0, dtype="uint16"), scan)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "als_analysis.xpcs.cli",
            "corr",
            str(scan),
            "--out",
            str(tmp_path / "r.hdf"),
            "--status",
            str(status),
            "--threads",
            "1",
            "--memory",
            "350M",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    limit = time.monotonic() + 60
    while not status.exists() and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "stopped after frame" in err) in ((75, True), (0, False))  # it may have been done
    assert (tmp_path / "r.hdf").exists() == (process.returncode == 0)
    assert json.loads(status.read_text())["state"] == ("preempted" if process.returncode == 75 else "done")
