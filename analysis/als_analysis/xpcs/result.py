"""The result file: opens in pyXpcsViewer, and offers the same data as NXxpcs through HDF5 soft links."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.atomic import json_safe, written_beside
from als_analysis.failure import OutputExists, Preempted, RawFileError
from als_analysis.readers.frames import Quantity
from als_analysis.readers.hdf5 import open_hdf5
from als_analysis.xpcs.fits import Fit
from als_analysis.xpcs.kept_maps import MAPS, KeptMaps
from als_analysis.xpcs.observe import Observed
from als_analysis.xpcs.qmap import QMap, read_qmap, write_qmap_group
from als_analysis.xpcs.state import Lags
from als_analysis.xpcs.twotime import TwoTime

SCHEMA_VERSION = "1.0"
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass
class Multitau:
    """g2 and its error, (lags, dynamic bins); optional partials (segments, lags, bins) and maps (lags, 3, H, W)."""

    lags: Lags
    g2: F64
    g2_err: F64
    partial: F64 | None = None
    partial_err: F64 | None = None
    partial_labels: list[str] = field(default_factory=list)
    maps: F32 | None = None


@dataclass
class Scattering:
    """What the frames show on average: intensities in the raw file's unit."""

    mean_2d: F64  # (H, W), NaN where no frame had a value
    mean_1d: F64  # (static bins,)
    segments_1d: F64  # (segments, static bins)
    intensity_vs_time: F64  # (processed frames,), mean over the used pixels


@dataclass
class Result:
    """All that one analysis found, as it is written and as it is read again for plots and QC."""

    raw_path: str
    qmap: QMap
    frame_time_s: float
    count_time_s: float
    stride: int
    avg: int
    scattering: Scattering
    multitau: Multitau | None
    metadata: dict[str, Quantity]
    start_time: str
    parameters: dict[str, Any]
    observed: Observed | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)

    @property
    def lag_time_s(self) -> float:
        """Seconds between processed frames."""
        return self.frame_time_s * self.stride * self.avg

    @property
    def dynamic_numbers(self) -> NDArray[np.int64]:
        """Numbers (from 1) of the dynamic bins that have pixels, in the order of g2's columns."""
        return self.qmap.numbers()[0]

    @property
    def q(self) -> F64:
        """|q| in 1/Å of each column of g2."""
        return np.array([self.qmap.dynamic.q_of(int(n)) for n in self.dynamic_numbers])

    @property
    def phi(self) -> F64:
        """Azimuth in degrees of each column of g2."""
        return np.array([self.qmap.dynamic.phi_of(int(n)) for n in self.dynamic_numbers])


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raise `OutputExists` if `out` is there and may not be replaced."""
    if out.exists() and not overwrite:
        raise OutputExists(f"{out}: a result is there already; --overwrite replaces it")


def write_result(out: Path, result: Result, two_time: Iterable[TwoTime] = (), kept: KeptMaps | None = None) -> None:
    """Write the result file, whole or not at all; two-time maps are written as they come.

    `kept` has the maps of an earlier run that was stopped, and keeps those of this one if `two_time` is stopped. Raises
    `OutputError`, and what `two_time` raises.
    """
    with written_beside(out) as beside:
        try:
            _write_into(beside, result, two_time, kept)
        except Preempted:
            if kept is not None:
                kept.keep(beside)
            raise


def _write_into(path: Path, result: Result, two_time: Iterable[TwoTime], kept: KeptMaps | None) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        _write_entry(file, result)
        write_qmap_group(file.create_group("/xpcs/qmap"), result.qmap)
        _write_scattering(file, result.scattering)
        if result.multitau is not None:
            _write_multitau(file, result, result.multitau)
        bins = _write_two_time(file, result, two_time, kept)
        if result.observed is not None:
            for name, value in asdict(result.observed).items():
                file[f"/xpcs/observed/{name}"] = value
        file["/xpcs/rawdata_path"] = result.raw_path
        for name, value in ({"parameters": result.parameters} | result.provenance).items():
            file[f"/xpcs/provenance/{name}"] = json.dumps(json_safe(value))
        _link_nexus(file, result, bins)


def _write_entry(file: Any, result: Result) -> None:
    from als_analysis import __version__

    entry = file.create_group("/entry")
    entry.attrs["NX_class"] = "NXentry"
    entry["schema_version"] = SCHEMA_VERSION
    entry["start_time"] = result.start_time
    entry["program_name"] = "als-xpcs"
    entry["program_name"].attrs["version"] = __version__
    # pyXpcsViewer takes a file for its NeXus layout when this group exists
    bluesky = file.create_group("/entry/instrument/bluesky/metadata")
    for name, quantity in result.metadata.items():
        if quantity["value"] is None:
            continue
        dataset = bluesky.create_dataset(name.replace("/", "_"), data=quantity["value"])
        if quantity["unit"]:
            dataset.attrs["units"] = quantity["unit"]
    file["/entry/instrument"].attrs["NX_class"] = "NXinstrument"
    detector = file.create_group("/entry/instrument/detector_1")
    detector.attrs["NX_class"] = "NXdetector"
    beam = file.create_group("/entry/instrument/incident_beam")
    beam.attrs["NX_class"] = "NXbeam"
    values: dict[str, tuple[Any, float, str]] = {
        "frame_time": (detector, result.frame_time_s, "s"),
        "count_time": (detector, result.count_time_s, "s"),
    }
    g = result.qmap.geometry
    values["incident_energy"] = (beam, g.photon_energy_ev / 1e3 if g else float("nan"), "keV")
    if g is not None:
        values |= {
            "x_pixel_size": (detector, g.pixel_x_m, "m"),
            "y_pixel_size": (detector, g.pixel_y_m, "m"),
            "distance": (detector, g.distance_m, "m"),
            "beam_center_x": (detector, g.center_x, "pixel"),
            "beam_center_y": (detector, g.center_y, "pixel"),
        }
    for name, (group, value, unit) in values.items():
        group.create_dataset(name, data=value).attrs["units"] = unit


def _write_scattering(file: Any, scattering: Scattering) -> None:
    means = file.create_group("/xpcs/temporal_mean")
    means.create_dataset("scattering_2d", data=scattering.mean_2d[None].astype(np.float32))  # noise: nothing compresses
    means.create_dataset("scattering_1d", data=scattering.mean_1d[None].astype(np.float32))
    means.create_dataset("scattering_1d_segments", data=scattering.segments_1d.astype(np.float32))
    frames = np.arange(len(scattering.intensity_vs_time))
    file["/xpcs/spatial_mean/intensity_vs_time"] = np.stack([frames, scattering.intensity_vs_time]).astype(np.float32)


def _write_multitau(file: Any, result: Result, multitau: Multitau) -> None:
    group = file.create_group("/xpcs/multitau")
    group["delay_list"] = multitau.lags.delay.astype(np.int64)
    group["normalized_g2"] = multitau.g2.astype(np.float32)
    group["normalized_g2_err"] = multitau.g2_err.astype(np.float32)
    group["config/stride_frame"] = result.stride
    group["config/avg_frame"] = result.avg
    group["level_list"] = multitau.lags.level.astype(np.int64)
    if multitau.partial is not None and multitau.partial_err is not None:
        group["normalized_g2_partial"] = multitau.partial.astype(np.float32)
        group["normalized_g2_partial_err"] = multitau.partial_err.astype(np.float32)
        group["normalized_g2_partial_labels"] = np.array([label.encode() for label in multitau.partial_labels])
    if multitau.maps is not None:
        group.create_dataset(
            "unnormalized_G2", data=multitau.maps, chunks=(1, *multitau.maps.shape[1:]), compression="lzf"
        )
    for model, fit in result.fits.items():
        for name in Fit.__dataclass_fields__:
            group[f"fit/{model}/{name}"] = getattr(fit, name)


def _write_two_time(file: Any, result: Result, two_time: Iterable[TwoTime], kept: KeptMaps | None) -> list[int]:
    """Write the maps, numbered from 1 in their order; returns the bins (none: no group is made)."""
    bins: list[int] = []
    g2: list[F64] = []
    segments: list[F64] = []
    if kept is not None:
        kept.copy_into(file)
        bins, g2, segments = [*kept.bins], [*kept.g2], [*kept.segments]
    try:
        for found in two_time:
            n = len(found.g2)
            rows = max(1, (1 << 20) // (4 * n))  # chunks of about 1 MiB
            name = f"{MAPS}/c2_{len(bins) + 1:05d}"
            file.create_dataset(name, data=found.c2, chunks=(min(rows, n), n), compression="lzf")
            bins.append(found.bin)
            g2.append(found.g2)
            segments.append(found.segments)
    except Preempted:
        if kept is not None and bins:
            kept.note(file, bins, g2, segments)
        raise
    if bins:
        group = file["/xpcs/twotime"]
        group["processed_bins"] = np.array(bins, dtype=np.int32)
        group["normalized_g2"] = np.stack(g2, axis=1).astype(np.float32)
        group["normalized_g2_segments"] = np.stack(segments, axis=2).astype(np.float32)
        group["config/stride_frame"] = result.stride
        group["config/avg_frame"] = result.avg
    return bins


def _link_nexus(file: Any, result: Result, two_time_bins: list[int]) -> None:
    import h5py

    entry = file["/entry"]
    entry["definition"] = "NXxpcs"
    links = {
        "/entry/data/frame_average": "/xpcs/spatial_mean/intensity_vs_time",
        "/entry/data/frame_sum": "/xpcs/temporal_mean/scattering_2d",
        "/entry/instrument/masks/dynamic_roi_map": "/xpcs/qmap/dynamic_roi_map",
        "/entry/instrument/masks/dynamic_q_list": "/xpcs/qmap/dynamic_v_list_dim0",
        "/entry/instrument/masks/static_roi_map": "/xpcs/qmap/static_roi_map",
        "/entry/instrument/masks/static_q_list": "/xpcs/qmap/static_v_list_dim0",
    }
    if result.multitau is not None:
        links |= {
            "/entry/data/g2": "/xpcs/multitau/normalized_g2",
            "/entry/data/g2_derr": "/xpcs/multitau/normalized_g2_err",
            "/entry/data/delay_difference": "/xpcs/multitau/delay_list",
        }
    if two_time_bins:
        links |= {
            "/entry/twotime/two_time_corr_func": "/xpcs/twotime/correlation_map",
            "/entry/twotime/g2_from_two_time_corr_func": "/xpcs/twotime/normalized_g2",
        }
    for name, target in links.items():
        parent, _, leaf = name.rpartition("/")
        file.require_group(parent)[leaf] = h5py.SoftLink(target)
    file["/entry/data"].attrs["NX_class"] = "NXdata"


def read_result(path: Path) -> Result:
    """Read a result file again, for plots and QC; raises `RawFileError` or `QMapError` that name file and path."""
    qmap = read_qmap(path, "/xpcs/qmap")
    with open_hdf5(path) as file:
        try:
            lags_delay = file["/xpcs/multitau/delay_list"][()] if "/xpcs/multitau" in file else None
            scattering = Scattering(
                np.asarray(file["/xpcs/temporal_mean/scattering_2d"][0], dtype=np.float64),
                np.asarray(file["/xpcs/temporal_mean/scattering_1d"][0], dtype=np.float64),
                np.asarray(file["/xpcs/temporal_mean/scattering_1d_segments"][()], dtype=np.float64),
                np.asarray(file["/xpcs/spatial_mean/intensity_vs_time"][1], dtype=np.float64),
            )
            multitau = None
            fits: dict[str, Fit] = {}
            if lags_delay is not None:
                group = file["/xpcs/multitau"]
                level = group["level_list"][()] if "level_list" in group else np.zeros_like(lags_delay)
                frames = len(scattering.intensity_vs_time)
                step = lags_delay >> level
                multitau = Multitau(
                    Lags(level, step, lags_delay, (frames >> level) - step),
                    np.asarray(group["normalized_g2"][()], dtype=np.float64),
                    np.asarray(group["normalized_g2_err"][()], dtype=np.float64),
                )
                if "normalized_g2_partial" in group:
                    multitau.partial = np.asarray(group["normalized_g2_partial"][()], dtype=np.float64)
                    multitau.partial_err = np.asarray(group["normalized_g2_partial_err"][()], dtype=np.float64)
                    multitau.partial_labels = [x.decode() for x in group["normalized_g2_partial_labels"][()]]
                for name, stored in group["fit"].items() if "fit" in group else ():
                    fits[str(name)] = Fit(**{key: stored[key][()] for key in Fit.__dataclass_fields__})
            config = file["/xpcs/multitau/config"] if multitau is not None else file["/xpcs/twotime/config"]
            detector = file["/entry/instrument/detector_1"]
            return Result(
                raw_path=_str(file["/xpcs/rawdata_path"][()]),
                qmap=qmap,
                frame_time_s=float(detector["frame_time"][()]),
                count_time_s=float(detector["count_time"][()]),
                stride=int(config["stride_frame"][()]),
                avg=int(config["avg_frame"][()]),
                scattering=scattering,
                multitau=multitau,
                metadata={},
                start_time=_str(file["/entry/start_time"][()]),
                parameters={},
                observed=_observed(file),
                fits=fits,
            )
        except (KeyError, OSError, ValueError) as error:
            raise RawFileError(f"{path}: not a whole result file: {error}") from error


def _str(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _observed(file: Any) -> Observed | None:
    group = file.get("/xpcs/observed")
    return Observed(**{name: float(group[name][()]) for name in Observed.__dataclass_fields__}) if group else None


def read_two_time(path: Path) -> Iterator[tuple[int, F32]]:
    """(bin from 1, C2) of each two-time map of a result file, one at a time; raises `RawFileError`."""
    with open_hdf5(path) as file:
        if "/xpcs/twotime/processed_bins" not in file:
            return
        try:
            for number, bin_ in enumerate(file["/xpcs/twotime/processed_bins"][()], start=1):
                yield int(bin_), file[f"/xpcs/twotime/correlation_map/c2_{number:05d}"][()]
        except (KeyError, OSError) as error:
            raise RawFileError(f"{path}: /xpcs/twotime: {error}") from error
