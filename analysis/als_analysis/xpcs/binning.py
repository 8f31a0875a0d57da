"""Making q-maps: from an exported ROI, or rings and wedges from geometry alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import BadArguments, QMapError
from als_analysis.xpcs.geometry import Geometry
from als_analysis.xpcs.qmap import Bins, QMap


def qmap_from_roi(
    labels: NDArray[np.int64],
    geometry: Geometry | None,
    static_per_dynamic: int = 10,
    where: str = "ROI",
    mask: NDArray[np.bool_] | None = None,
) -> QMap:
    """A q-map whose dynamic bins are the labels 1, 2, … of an ROI image (H, W).

    Each dynamic bin is cut into static bins of about equal numbers of pixels along |q| (without a geometry: along the
    pixels' order), so that the change of the mean intensity inside one static bin stays small. The q of a bin is the
    mean |q| of its pixels, in 1/Å (NaN without geometry). Labels may have gaps; they are numbered anew, from 1, in
    their order. Raises `QMapError` for an empty ROI.
    """
    if static_per_dynamic < 1:
        raise BadArguments("--static-bins: at least 1")
    shape = (int(labels.shape[0]), int(labels.shape[1]))
    usable = np.ones(shape, dtype=bool) if mask is None else mask.astype(bool)
    present = np.unique(labels[usable & (labels > 0)])
    if present.size == 0:
        raise QMapError(f"{where}: the ROI is empty")
    if geometry is not None:
        q, _ = geometry.q_phi(shape)
    else:
        q = np.arange(shape[0] * shape[1], dtype=np.float64).reshape(shape)
    dynamic, static = np.zeros(shape, dtype=np.uint32), np.zeros(shape, dtype=np.uint32)
    q_dynamic, q_static = [], []
    for number, label in enumerate(present, start=1):
        inside = np.flatnonzero((labels == label).ravel() & usable.ravel())
        dynamic.ravel()[inside] = number
        q_dynamic.append(float(q.ravel()[inside].mean()) if geometry is not None else float("nan"))
        ordered = inside[np.argsort(q.ravel()[inside], kind="stable")]
        for part in np.array_split(ordered, min(static_per_dynamic, len(ordered))):
            q_static.append(float(q.ravel()[part].mean()) if geometry is not None else float("nan"))
            static.ravel()[part] = len(q_static)
    one = np.zeros(1)
    return QMap(
        dynamic,
        static,
        Bins(np.array(q_dynamic), one, (len(q_dynamic), 1)),
        Bins(np.array(q_static), one, (len(q_static), 1)),
        usable.astype(np.uint8),
        geometry,
        name="from ROI",
    ).checked(where)


def qmap_from_geometry(
    shape: tuple[int, int],
    geometry: Geometry,
    dynamic: tuple[int, int],
    static: tuple[int, int],
    q_range: tuple[float, float] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> QMap:
    """Rings (and wedges): `dynamic` = (rings, wedges) bins, `static` = (rings, wedges), multiples of the dynamic ones.

    Rings are of equal width in |q| between `q_range` (1/Å; default: all that the detector sees, without the innermost
    two pixels), wedges of equal angle from 0 degrees. Raises `BadArguments` and `QMapError`.
    """
    if min(*dynamic, *static) < 1 or static[0] % dynamic[0] or static[1] % dynamic[1]:
        raise BadArguments(f"static bins {static} are not multiples of the dynamic bins {dynamic}")
    q, phi = geometry.q_phi(shape)
    usable = np.ones(shape, dtype=bool) if mask is None else mask.astype(bool)
    per_pixel = float(np.median(np.abs(np.diff(q, axis=1)))) if shape[1] > 1 else 0.0
    low, high = q_range if q_range is not None else (2 * per_pixel, float(q[usable].max(initial=0.0)))
    if not 0 <= low < high:
        raise BadArguments(f"q range {low} to {high}: the first must be below the second")
    inside = usable & (q >= low) & (q <= high)

    def partition(rings: int, wedges: int) -> tuple[NDArray[np.uint32], Bins]:
        ring = np.clip(((q - low) / (high - low) * rings).astype(int), 0, rings - 1)
        wedge = np.clip((phi / 360.0 * wedges).astype(int), 0, wedges - 1)
        numbered = np.where(inside, ring * wedges + wedge + 1, 0).astype(np.uint32)
        centers_q = low + (np.arange(rings) + 0.5) * (high - low) / rings
        centers_phi = (np.arange(wedges) + 0.5) * 360.0 / wedges
        return numbered, Bins(centers_q, centers_phi, (rings, wedges))

    dynamic_map, dynamic_bins = partition(*dynamic)
    static_map, static_bins = partition(*static)
    return QMap(
        dynamic_map, static_map, dynamic_bins, static_bins, usable.astype(np.uint8), geometry, name="from geometry"
    ).checked("q-map from geometry")
