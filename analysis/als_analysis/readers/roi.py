"""The region of interest that the beamline exports beside each stack: an integer label image, 0 = unused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import QMapError, RawFileError
from als_analysis.readers.hdf5 import dataset_at, open_hdf5
from als_analysis.readers.layout import Layout

DEFAULT_PATH = "/roi/labels"


def read_roi(path: Path, layout: Layout) -> NDArray[np.int64]:
    """The label image (H, W) int64 of an ROI file; raises `QMapError` that names file and path."""
    where = layout.roi or DEFAULT_PATH
    try:
        with open_hdf5(path) as file:
            image = dataset_at(file, where, path, "ROI")[()]
    except RawFileError as error:
        raise QMapError(str(error)) from error
    except OSError as error:
        raise QMapError(f"{path}: {where}: {error}") from error
    labels = np.asarray(image)
    if labels.ndim == 3 and labels.shape[0] == 1:
        labels = labels[0]
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise QMapError(
            f"{path}: {where}: expected an integer label image (H, W), there is {labels.shape} {labels.dtype}"
        )
    labels = labels.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise QMapError(f"{path}: {where}: labels are not negative, 0 is unused; the smallest is {labels.min()}")
    if not labels.any():
        raise QMapError(f"{path}: {where}: the ROI is empty, every pixel is 0")
    return labels
