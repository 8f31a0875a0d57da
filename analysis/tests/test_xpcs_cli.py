"""als-xpcs as a job runs it: what it writes, how it fails, and how it goes on after it was stopped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from als_analysis.xpcs.cli import main
from als_analysis.xpcs.movie_file import write_movie
from als_analysis.xpcs.progress import Progress
from als_analysis.xpcs.simulate import Movie

SMALL = Movie(frames=80, side=48, rings=2)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "in put" / "scan.h5"
    write_movie(SMALL, path)
    return path


def corr(scan: Path, *more: str) -> tuple[int, Path]:
    out = scan.parent.parent / "out" / "r.hdf"
    return main(["corr", str(scan), "--out", str(out), "--sha256", "none", *more]), out


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_the_result_has_what_pyxpcsviewer_and_nxxpcs_look_for(scan: Path) -> None:
    code, out = corr(scan, "--type", "both", "--dq", "2", "--save-G2")
    assert code == 0
    with h5py.File(out) as file:
        n_tau = len(file["/xpcs/multitau/delay_list"])
        shapes = {
            "/xpcs/multitau/normalized_g2": (n_tau, 2),
            "/xpcs/multitau/normalized_g2_err": (n_tau, 2),
            "/xpcs/multitau/normalized_g2_partial": (2, n_tau, 2),
            "/xpcs/multitau/normalized_g2_partial_labels": (2,),
            "/xpcs/multitau/unnormalized_G2": (n_tau, 3, 48, 48),
            "/xpcs/temporal_mean/scattering_2d": (1, 48, 48),
            "/xpcs/temporal_mean/scattering_1d": (1, 20),
            "/xpcs/temporal_mean/scattering_1d_segments": (10, 20),
            "/xpcs/spatial_mean/intensity_vs_time": (2, 80),
            "/xpcs/twotime/correlation_map/c2_00001": (80, 80),
            "/xpcs/twotime/normalized_g2": (80, 1),
            "/xpcs/twotime/normalized_g2_segments": (16, 5, 1),
            "/xpcs/twotime/processed_bins": (1,),
            "/xpcs/qmap/dynamic_roi_map": (48, 48),
        }
        assert {name: file[name].shape for name in shapes} == shapes
        assert "/xpcs/Version" not in file and isinstance(file["/entry/instrument/bluesky/metadata"], h5py.Group)
        assert file["/xpcs/multitau/delay_list"].dtype == np.int64
        assert file["/xpcs/multitau/normalized_g2"].dtype == np.float32
        assert file["/entry/instrument/incident_beam/incident_energy"][()] == pytest.approx(0.7781)
        assert file["/entry/instrument/detector_1/frame_time"][()] == 0.05
        assert len(file["/xpcs/qmap"].attrs["hash"]) == 16
        assert file["/xpcs/qmap/map_names"].dtype.kind == "S"
        assert file["/xpcs/twotime/processed_bins"][()].tolist() == [2]
        assert np.all(np.tril(file["/xpcs/twotime/correlation_map/c2_00001"][()], -1) == 0)
        assert isinstance(file.get("/entry/data/g2", getlink=True), h5py.SoftLink)
        assert np.array_equal(file["/entry/data/g2"][()], file["/xpcs/multitau/normalized_g2"][()])
        assert file["/entry/definition"][()] == b"NXxpcs"
        assert json.loads(file["/xpcs/provenance/versions"][()])["numpy"] == np.__version__


def test_the_summary_has_parameters_values_checks_versions_timings_device_and_input(scan: Path) -> None:
    out = scan.parent.parent / "out"
    assert (
        main(
            [
                "corr",
                str(scan),
                "--out",
                str(out / "r.hdf"),
                "--summary",
                str(out / "s.json"),
                "--plots",
                str(out),
                "--label",
                "second",
            ]
        )
        == 0
    )
    summary = json.loads((out / "s.json").read_text())
    assert summary["schema"] == "als-xpcs-summary/1"
    assert summary["parameters"]["label"] == "second" and summary["parameters"]["partials"] == 2
    for name in ("q_per_angstrom", "tau_s", "tau_s_err", "contrast", "contrast_err", "baseline", "chi_squared"):
        assert len(summary["values"][name]) == 2
    for check in summary["qc"].values():
        assert set(check) == {"value", "threshold", "verdict", "explanation"}
        assert check["verdict"] in ("pass", "warn", "fail")
    assert summary["input"]["bytes"] == scan.stat().st_size
    import hashlib

    assert summary["input"]["sha256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert {"correlate", "fit", "write", "total", "sha256"} <= set(summary["timings"])
    assert 0 < (out / "g2.png").stat().st_size <= 50_000 and (out / "scattering.png").stat().st_size > 0
    assert json.loads((out / "status.json").read_text())["state"] == "done"


def test_an_existing_result_is_an_error_and_nothing_is_lost(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = corr(scan)
    before = out.read_bytes()
    assert code == 0 and corr(scan)[0] == 5
    assert str(out) in last_line(capsys) and out.read_bytes() == before
    assert corr(scan, "--overwrite")[0] == 0


def spoil(scan: Path, what: str) -> tuple[list[str], int, str]:
    """Break something; gives more arguments, the exit code to expect, and what the last line must name."""
    roi = scan.with_name("scan_roi.h5")
    if what == "cut off":
        scan.write_bytes(scan.read_bytes()[:-1000])
        return [], 3, "cut off"
    if what == "missing":
        scan.unlink()
        return [], 3, "no such file"
    if what == "not HDF5":
        scan.write_bytes(b"nothing of the sort" * 100)
        return [], 3, "not readable as HDF5"
    if what == "frames elsewhere":
        return ["--layout", json.dumps({"frames": "/other/place"})], 3, "/other/place: no frames"
    if what == "damaged chunk":
        with h5py.File(scan) as file:
            where = file["/entry/data/data"].id.get_chunk_info(40).byte_offset
        content = bytearray(scan.read_bytes())
        content[where + 12 : where + 40] = b"\xff" * 28
        scan.write_bytes(content)
        return [], 3, "frame 40: corrupted"
    if what == "no ROI":
        roi.unlink()
        return [], 4, "scan_roi.h5: no such file"
    if what == "empty ROI":
        with h5py.File(roi, "w") as file:
            file["/roi/labels"] = np.zeros((48, 48), dtype=np.uint16)
        return [], 4, "/roi/labels: the ROI is empty"
    if what == "ROI of another shape":
        with h5py.File(roi, "w") as file:
            file["/roi/labels"] = np.ones((40, 48), dtype=np.uint16)
        return [], 4, "(40, 48)"
    if what == "no q-map in it":
        return ["--qmap", str(roi)], 4, "/qmap/dynamic_roi_map: no q-map"
    if what == "no frame time":
        with h5py.File(scan, "a") as file:
            del file["/entry/instrument/detector/frame_time"]
        return [], 6, "/entry/instrument/detector/frame_time"
    if what == "too little memory":
        return ["--memory", "100M"], 7, "the limit is 100 MiB"
    if what == "bad range":
        return ["--begin", "70", "--end", "500"], 2, "the file has 80 frames"
    if what == "bad bins":
        return ["--dq", "3-1"], 2, "3-1"
    if what == "output nowhere":
        return ["--out", "/proc/nowhere/r.hdf"], 8, "/proc/nowhere/r.hdf"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "cut off",
        "missing",
        "not HDF5",
        "frames elsewhere",
        "damaged chunk",
        "no ROI",
        "empty ROI",
        "ROI of another shape",
        "no q-map in it",
        "no frame time",
        "too little memory",
        "bad range",
        "bad bins",
        "output nowhere",
    ],
)
def test_each_failure_has_its_code_one_clear_line_and_leaves_no_result(
    scan: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    more, expected, named = spoil(scan, what)
    code, out = corr(scan, *more)
    line = last_line(capsys)
    assert (code, named in line) == (expected, True), line
    assert line.startswith("als-xpcs: ")
    assert not list(out.parent.glob("*")) if out.parent.exists() else True


def test_plot_and_qc_work_from_a_result_file_alone(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = corr(scan, "--type", "both")
    plots = out.parent / "plots"
    assert main(["plot", str(out), "--out", str(plots)]) == 0
    made = {path.name for path in plots.iterdir()}
    assert {
        "g2.png",
        "g2_grid.png",
        "scattering.png",
        "scattering_linear.png",
        "i_of_q.png",
        "i_of_q_segments.png",
        "intensity.png",
        "tau.png",
        "two_time_00001.png",
        "two_time_00002.png",
    } == made
    assert all(path.stat().st_size < 150_000 for path in plots.iterdir())
    capsys.readouterr()
    assert main(["qc", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["qc"]["baseline"]["verdict"] == "pass"
    assert main(["qc", str(scan)]) in (3, 4)


def test_qmaps_from_geometry_have_rings_wedges_and_static_bins_inside_dynamic_ones(scan: Path) -> None:
    path = scan.with_name("q.h5")
    assert (
        main(
            [
                "qmap",
                "--raw",
                str(scan),
                "--rings",
                "3",
                "--wedges",
                "4",
                "--static-rings",
                "6",
                "--static-wedges",
                "8",
                "--out",
                str(path),
            ]
        )
        == 0
    )
    with h5py.File(path) as file:
        dynamic, static = file["/qmap/dynamic_roi_map"][()], file["/qmap/static_roi_map"][()]
        assert file["/qmap/dynamic_num_pts"][()].tolist() == [3, 4]
    assert dynamic.max() == 12 and static.max() == 48
    for number in np.unique(static[static > 0]):
        assert len(np.unique(dynamic[static == number])) == 1
    assert corr(scan, "--qmap", str(path))[0] == 0


def test_trouble_in_the_frames_shows_in_the_checks(tmp_path: Path) -> None:
    scan = tmp_path / "scan.h5"
    write_movie(Movie(frames=100, side=48, rings=2, dtype="uint16"), scan)
    with h5py.File(scan, "a") as file:
        data = file["/entry/data/data"]
        hot = np.stack([data[i] for i in range(100)])
        hot[:, 24, 10] = 60000
        hot[40:60, 24, 10] = 65535
        hot[:, 24, 38] = 0
        hot[10] = 0
        hot[20] = hot[19]
        hot[30] = np.minimum(hot[30] * 5.0, 65535)
        data[...] = hot
    summary = tmp_path / "s.json"
    assert main(["corr", str(scan), "--out", str(tmp_path / "r.hdf"), "--summary", str(summary)]) == 0
    verdicts = {name: check["verdict"] for name, check in json.loads(summary.read_text())["qc"].items()}
    for name in ("dropped_frames", "repeated_frames", "outlier_frames", "hot_pixels", "saturation"):
        assert verdicts[name] in ("warn", "fail"), (name, verdicts)
    assert json.loads(summary.read_text())["qc"]["dead_pixels"]["value"] > 0


def test_progress_goes_to_the_stderr_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to that of the moment of the import, which a program that calls this one may have closed since."""
    monkeypatch.setattr("als_analysis.xpcs.progress._EVERY_S", 0.0)
    monkeypatch.setattr("sys.stderr", now := io.StringIO())
    Progress()(1, 2)
    assert json.loads(now.getvalue())["progress"]["done"] == 1
