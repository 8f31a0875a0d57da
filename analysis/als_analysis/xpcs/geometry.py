"""Where each pixel lies in reciprocal space: |q| and azimuth for a flat detector normal to the beam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from als_analysis.readers.frames import FrameSource, Quantity, in_base_unit

HC_EV_ANGSTROM = 12398.419843320026  # h c / e, CODATA 2018, exact by definition of h, c, e


@dataclass(frozen=True)
class Geometry:
    """Photon energy (eV), detector distance (m), pixel sizes (m), and where the beam hits (pixels, from 0)."""

    photon_energy_ev: float
    distance_m: float
    pixel_x_m: float
    pixel_y_m: float
    center_x: float
    center_y: float

    def q_phi(self, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """|q| in 1/Å and azimuth in degrees (0 … 360, from +x towards +y), each (H, W).

        q = 4 pi / lambda * sin(theta), 2 theta = atan(r / distance): elastic scattering, e.g. Als-Nielsen & McMorrow,
        Elements of Modern X-ray Physics, section 1.2.
        """
        y, x = np.indices(shape, dtype=np.float64)
        dx, dy = (x - self.center_x) * self.pixel_x_m, (y - self.center_y) * self.pixel_y_m
        two_theta = np.arctan2(np.hypot(dx, dy), self.distance_m)
        wavelength = HC_EV_ANGSTROM / self.photon_energy_ev
        return 4.0 * np.pi / wavelength * np.sin(two_theta / 2.0), np.degrees(np.arctan2(dy, dx)) % 360.0


def geometry_of(source: FrameSource, metadata: dict[str, Quantity]) -> Geometry:
    """The geometry that a raw file's metadata states; raises `MetadataMissing` with the path that was looked for."""
    return Geometry(
        photon_energy_ev=in_base_unit(metadata, "photon_energy", source),
        distance_m=in_base_unit(metadata, "detector_distance", source),
        pixel_x_m=in_base_unit(metadata, "pixel_size_x", source),
        pixel_y_m=in_base_unit(metadata, "pixel_size_y", source),
        center_x=in_base_unit(metadata, "beam_center_x", source),
        center_y=in_base_unit(metadata, "beam_center_y", source),
    )
