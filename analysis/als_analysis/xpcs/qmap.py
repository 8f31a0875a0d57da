"""The q-map: which pixel belongs to which dynamic and static bin, and the q of each bin.

Each static bin lies inside one dynamic bin; 0 is unused. Formats: `/qmap` of the reference in analysis/README.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import QMapError, RawFileError
from als_analysis.readers.hdf5 import dataset_at, open_hdf5
from als_analysis.xpcs.geometry import Geometry


@dataclass(frozen=True)
class Bins:
    """One partition: values along two dimensions (|q| in 1/Å, azimuth in deg) and the grid's shape."""

    v_list_dim0: NDArray[np.float64]
    v_list_dim1: NDArray[np.float64]
    num_pts: tuple[int, int]

    def q_of(self, bin_number: int) -> float:
        """|q| in 1/Å of a bin, counted from 1."""
        index = (bin_number - 1) // max(self.num_pts[1], 1)
        return float(self.v_list_dim0[index]) if index < len(self.v_list_dim0) else float("nan")

    def phi_of(self, bin_number: int) -> float:
        """Azimuth in degrees of a bin, counted from 1."""
        index = (bin_number - 1) % max(self.num_pts[1], 1)
        return float(self.v_list_dim1[index]) if index < len(self.v_list_dim1) else float("nan")


@dataclass(frozen=True)
class QMap:
    """A checked q-map; the maps are (H, W) uint32. `extra` holds what else the file's group had, for the copy."""

    dynamic_roi_map: NDArray[np.uint32]
    static_roi_map: NDArray[np.uint32]
    dynamic: Bins
    static: Bins
    mask: NDArray[np.uint8]
    geometry: Geometry | None = None
    blemish: NDArray[np.uint8] | None = None
    map_names: tuple[str, str] = ("q", "phi")
    map_units: tuple[str, str] = ("1/Angstrom", "degree")
    name: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.mask.shape[0]), int(self.mask.shape[1])

    @property
    def hash(self) -> str:
        """Identifies the binning: SHA-256 over the two maps, 16 hex digits."""
        digest = hashlib.sha256()
        for array in (self.dynamic_roi_map, self.static_roi_map):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array, dtype="<u4").tobytes())
        return digest.hexdigest()[:16]

    def used(self) -> NDArray[np.intp]:
        """Flat indices of the used pixels, ascending."""
        keep = (self.mask > 0) & (self.dynamic_roi_map > 0) & (self.static_roi_map > 0)
        if self.blemish is not None:
            keep &= self.blemish > 0
        return np.flatnonzero(keep)

    def numbers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The dynamic and the static bins that have used pixels, as the maps number them (from 1), ascending."""
        used = self.used()
        maps = (self.dynamic_roi_map, self.static_roi_map)
        dynamic, static = (np.flatnonzero(np.bincount(m.ravel()[used])) for m in maps)
        return dynamic, static

    def checked(self, where: str) -> QMap:
        """This q-map, or `QMapError` that names `where` and the rule it breaks."""
        if self.dynamic_roi_map.shape != self.static_roi_map.shape or self.mask.shape != self.dynamic_roi_map.shape:
            raise QMapError(
                f"{where}: dynamic_roi_map {self.dynamic_roi_map.shape}, static_roi_map {self.static_roi_map.shape} "
                f"and mask {self.mask.shape} have different shapes"
            )
        used = self.used()
        if used.size == 0:
            raise QMapError(f"{where}: no pixel is used: dynamic_roi_map, static_roi_map and mask leave nothing")
        static, dynamic = self.static_roi_map.ravel()[used], self.dynamic_roi_map.ravel()[used]
        pairs = np.unique(np.stack([static, dynamic]), axis=1)
        if len(np.unique(pairs[0])) != pairs.shape[1]:
            values, counts = np.unique(pairs[0], return_counts=True)
            raise QMapError(f"{where}: static bin {values[counts > 1][0]} lies in more than one dynamic bin")
        return self


def read_qmap(path: Path, where: str = "/qmap") -> QMap:
    """Read the q-map group of an HDF5 file; raises `QMapError` that names file and path."""
    import h5py

    try:
        with open_hdf5(path) as file:
            arrays: dict[str, Any] = {}
            for name in ("dynamic_roi_map", "static_roi_map"):
                arrays[name] = dataset_at(file, f"{where}/{name}", path, "q-map")[()]
            group = file[where]
            rest = {str(k): v[()] for k, v in group.items() if isinstance(v, h5py.Dataset) and k not in arrays}
    except RawFileError as error:
        raise QMapError(str(error)) from error
    except OSError as error:
        raise QMapError(f"{path}: {where}: {error}") from error
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype.kind not in "ui" or (array.size and array.min() < 0):
            raise QMapError(
                f"{path}: {where}/{name}: expected (H, W) of whole numbers, there is {array.shape} {array.dtype}"
            )
    dynamic, static = (arrays[f"{kind}_roi_map"].astype(np.uint32) for kind in ("dynamic", "static"))
    try:
        numbers = {k: float(np.ravel(rest[k])[0]) for k in _GEOMETRY if k in rest}
        mask = np.asarray(rest.get("mask", np.ones(dynamic.shape))).astype(bool).astype(np.uint8)
        names = tuple(_text(x) for x in np.ravel(rest.get("map_names", np.array([b"q", b"phi"]))))
        units = tuple(_text(x) for x in np.ravel(rest.get("map_units", np.array([b"1/Angstrom", b"degree"]))))
        qmap = QMap(
            dynamic,
            static,
            _bins(rest, "dynamic", dynamic),
            _bins(rest, "static", static),
            mask,
            _geometry(numbers),
            blemish=np.asarray(rest["blemish"]).astype(bool).astype(np.uint8) if "blemish" in rest else None,
            map_names=(names[0], names[1]) if len(names) > 1 else ("q", "phi"),
            map_units=(units[0], units[1]) if len(units) > 1 else ("1/Angstrom", "degree"),
            name=path.name,
            extra={k: v for k, v in rest.items() if k not in _WRITTEN},
        )
    except (ValueError, TypeError, IndexError) as error:
        raise QMapError(f"{path}: {where}: {error}") from error
    return qmap.checked(f"{path}: {where}")


_GEOMETRY = ("energy", "detector_distance", "pixel_size", "pixel_size_y", "beam_center_x", "beam_center_y")
_WRITTEN = {
    "mask",
    "blemish",
    "dynamic_roi_map",
    "static_roi_map",
    "map_names",
    "map_units",
    *_GEOMETRY,
    *(f"{k}_{n}" for k in ("dynamic", "static") for n in ("v_list_dim0", "v_list_dim1", "num_pts", "index_mapping")),
}


def _text(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def _geometry(numbers: dict[str, float]) -> Geometry | None:
    needed = ("energy", "detector_distance", "pixel_size", "beam_center_x", "beam_center_y")
    if not all(np.isfinite(numbers.get(key, np.nan)) for key in needed):
        return None
    return Geometry(
        numbers["energy"] * 1e3,
        numbers["detector_distance"],
        numbers["pixel_size"],
        numbers.get("pixel_size_y", numbers["pixel_size"]),
        numbers["beam_center_x"],
        numbers["beam_center_y"],
    )


def _bins(rest: dict[str, Any], kind: str, roi_map: NDArray[np.uint32]) -> Bins:
    top = int(roi_map.max(initial=0))
    v0 = np.ravel(np.asarray(rest.get(f"{kind}_v_list_dim0", np.full(top, np.nan)), dtype=np.float64))
    v1 = np.ravel(np.asarray(rest.get(f"{kind}_v_list_dim1", np.zeros(1)), dtype=np.float64))
    points = np.ravel(np.asarray(rest.get(f"{kind}_num_pts", [len(v0), max(len(v1), 1)]))).astype(int)
    if len(points) < 2 or points[0] * points[1] < top:
        raise ValueError(f"{kind}_num_pts {points.tolist()} has fewer bins than {kind}_roi_map, whose largest is {top}")
    return Bins(v0, v1, (int(points[0]), int(points[1])))


def write_qmap_group(group: Any, qmap: QMap) -> None:
    """Write a q-map into an (empty) HDF5 group, with the attribute `hash` that pyXpcsViewer wants."""
    used_dynamic, used_static = qmap.numbers()
    group.attrs["hash"] = qmap.hash
    if qmap.name:
        group.attrs["name"] = qmap.name
    group.create_dataset("mask", data=qmap.mask, compression="lzf")
    if qmap.blemish is not None:
        group.create_dataset("blemish", data=qmap.blemish, compression="lzf")
    for kind, roi_map, bins, used in (
        ("dynamic", qmap.dynamic_roi_map, qmap.dynamic, used_dynamic),
        ("static", qmap.static_roi_map, qmap.static, used_static),
    ):
        group.create_dataset(f"{kind}_roi_map", data=roi_map, compression="lzf")
        group.create_dataset(f"{kind}_v_list_dim0", data=bins.v_list_dim0)
        group.create_dataset(f"{kind}_v_list_dim1", data=bins.v_list_dim1)
        group.create_dataset(f"{kind}_num_pts", data=np.array(bins.num_pts, dtype=np.int64))
        group.create_dataset(f"{kind}_index_mapping", data=used - 1)
    group.create_dataset("map_names", data=np.array([n.encode() for n in qmap.map_names]))
    group.create_dataset("map_units", data=np.array([u.encode() for u in qmap.map_units]))
    # a viewer that looks for the geometry finds NaN where nobody knows it
    g = qmap.geometry or Geometry(*[float("nan")] * 6)
    values = (g.photon_energy_ev / 1e3, g.distance_m, g.pixel_x_m, g.pixel_y_m, g.center_x, g.center_y)
    units = ("keV", "m", "m", "m", "pixel", "pixel")
    for key, value, unit in zip(_GEOMETRY, values, units, strict=True):
        group.create_dataset(key, data=value).attrs["units"] = unit
    for key, value in qmap.extra.items():
        group.create_dataset(key, data=value)


def write_qmap(path: Path, qmap: QMap) -> None:
    """Write a q-map file, whole or not at all; raises `OutputError`."""
    import h5py

    from als_analysis.atomic import written_beside

    with written_beside(path) as beside, h5py.File(beside, "w") as file:
        write_qmap_group(file.create_group("qmap"), qmap)
