"""A speckle movie with a known answer; `movie_file` writes it.

The field of every pixel is a sum of M independent circular complex Gaussian modes that each forget themselves as
exp(-t / tau); with the coherent fraction f the intensity I = S ((1 - f) + f sum |E_m|^2 / M) obeys the Siegert relation

    g2(t) = 1 + beta exp(-2 t / tau),      beta = f^2 / M

(Goodman, Speckle Phenomena in Optics, ch. 3; Berne & Pecora, Dynamic Light Scattering, ch. 4). Photon noise and the
detector's read noise are white in time and change no lag but zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.failure import BadArguments
from als_analysis.xpcs.binning import qmap_from_roi
from als_analysis.xpcs.geometry import Geometry
from als_analysis.xpcs.qmap import QMap

SIZES = {"tiny": (512, 96), "small": (1000, 192), "large": (4000, 512)}  # frames, side in pixels
PIECE = 16  # frames written at a time
_ADU_STEP = 0.25  # frames are whole ADU minus a dark image that is the mean of 4


@dataclass(frozen=True)
class Movie:
    """What to simulate: `tau_frames` is the innermost ring's correlation time in frames, tau falls as 1/q outwards."""

    frames: int = 512
    side: int = 96
    rings: int = 4
    contrast: float = 0.25
    tau_frames: float = 9.0
    frame_time_s: float = 0.05
    photons: float = 100.0
    dtype: str = "float32"
    seed: int = 0

    def checked(self) -> Movie:
        """This movie, or `BadArguments` that names what cannot be."""
        if self.frames < 2 or self.side < 16 or not 1 <= self.rings <= self.side // 8:
            raise BadArguments("simulate: at least 2 frames, 16 pixels a side, and a ring for every 8 pixels at most")
        if not 0.0 < self.contrast <= 1.0 or self.tau_frames <= 0 or self.frame_time_s <= 0 or self.photons <= 0:
            raise BadArguments("simulate: contrast in (0, 1]; tau, frame time and photons above 0")
        if self.dtype not in ("float32", "float64", "uint8", "uint16", "uint32", "int16", "int32"):
            raise BadArguments(f"simulate: dtype {self.dtype}: expected float32, float64, uint8/16/32 or int16/32")
        return self

    @property
    def geometry(self) -> Geometry:
        """Resonant scattering at the cobalt L3 edge, the detector behind the sample."""
        pixel = 60e-6 * 96 / self.side
        return Geometry(778.1, 0.35, pixel, pixel, (self.side - 1) / 2.0, (self.side - 1) / 2.0)

    def roi(self) -> NDArray[np.uint16]:
        """The ROI (H, W): rings of equal area around the beam, 1 is the innermost; 0 around the beam stop."""
        y, x = np.indices((self.side, self.side)) - (self.side - 1) / 2.0
        r = np.hypot(x, y)
        inner, outer = 0.1 * self.side, 0.48 * self.side
        edges = np.sqrt(np.linspace(inner**2, outer**2, self.rings + 1))
        labels = np.searchsorted(edges, r, side="right")
        labels[(r < inner) | (r >= outer)] = 0
        return np.asarray(labels, dtype=np.uint16)

    def qmap(self) -> QMap:
        return qmap_from_roi(self.roi().astype(np.int64), self.geometry)

    def tau_per_ring(self) -> NDArray[np.float64]:
        """Correlation time of each ring in frames."""
        q = self.qmap().dynamic.v_list_dim0
        return np.asarray(self.tau_frames * q[0] / q, dtype=np.float64)

    def truth(self) -> dict[str, Any]:
        """The known answer, under the names of summary.json's "values"."""
        return {
            "schema": "als-xpcs-truth/1",
            "parameters": asdict(self),
            "values": {
                "q_per_angstrom": [float(q) for q in self.qmap().dynamic.v_list_dim0],
                "tau_s": [float(t) * self.frame_time_s for t in self.tau_per_ring()],
                "contrast": [self.contrast] * self.rings,
                "baseline": [1.0] * self.rings,
            },
        }


def intensity(movie: Movie) -> NDArray[np.float32]:
    """The mean photons per pixel (H, W): a broad ring of magnetic scattering, a weak tail, a beam stop's shadow."""
    y, x = np.indices((movie.side, movie.side)) - (movie.side - 1) / 2.0
    r = np.hypot(x, y) / movie.side
    ring = np.exp(-(((r - 0.24) / 0.10) ** 2)) + 0.15 * np.exp(-r / 0.2) + 0.08
    ring *= 0.02 + 0.98 / (1.0 + np.exp(-(r - 0.055) / 0.008))
    return np.asarray(ring / ring.mean() * movie.photons, dtype=np.float32)


def frames_of(movie: Movie, piece: int = PIECE) -> Iterator[NDArray[Any]]:
    """The movie piece by piece, (n, H, W) of its dtype; memory is independent of its length.

    Every mode is an AR(1) process, E[t+1] = a E[t] + sqrt(1 - a^2) W, a = exp(-1 / tau): exact at the frame times.
    """
    rng = np.random.default_rng(movie.seed)
    modes = max(1, min(4, int(1.0 / movie.contrast)))
    fraction = np.float32(np.sqrt(movie.contrast * modes))
    shape = (movie.side, movie.side)
    taus = np.concatenate([[movie.tau_frames], movie.tau_per_ring()])[movie.roi()]
    keep = np.exp(-1.0 / taus).astype(np.float32)
    renew = np.sqrt(1.0 - keep.astype(np.float64) ** 2).astype(np.float32)
    mean = intensity(movie)
    # real and imaginary part of each mode have variance 1/2: <|E|^2> = 1
    field = rng.standard_normal((2 * modes, *shape), dtype=np.float32)
    fresh = np.empty_like(field)
    for start in range(0, movie.frames, piece):
        count = min(piece, movie.frames - start)
        rate = np.empty((count, *shape), dtype=np.float32)
        for index in range(count):
            np.einsum("mij,mij->ij", field, field, out=rate[index])
            rng.standard_normal(out=fresh, dtype=np.float32)
            fresh *= renew
            field *= keep
            field += fresh
        rate *= fraction / (2 * modes)
        rate += 1.0 - fraction
        rate *= mean
        yield _detected(rate, movie, rng)


def _detected(rate: NDArray[np.float32], movie: Movie, rng: np.random.Generator) -> NDArray[Any]:
    dtype = np.dtype(movie.dtype)
    if dtype.kind != "f":
        counts = rng.poisson(rate)
        return np.minimum(counts, np.iinfo(dtype).max).astype(dtype)
    # many photons: Poisson as Gaussian; read noise of 2 ADU; the subtracted dark image makes dim pixels negative
    noise = rng.standard_normal(rate.shape, dtype=np.float32)
    noise *= np.sqrt(rate + 4.0)
    rate += noise
    np.divide(rate, _ADU_STEP, out=rate)
    np.rint(rate, out=rate)
    rate *= _ADU_STEP
    return rate.astype(dtype, copy=False)
