"""Fits of g2 per dynamic bin: simple and stretched exponentials that know how multi-tau averages.

    g2(d) = baseline + contrast * exp(-2 (d / tau)^gamma),      gamma = 1 in the simple fit

A lag at level l compares means of m = 2^l frames, so that the exponential is smeared: its expectation is the mean of
the model over all pairs of frames, sum_k (m - |k|) / m^2 f(d + k), k = -(m-1) … m-1. Fitting the bare exponential to
such points biases tau. For gamma = 1, with r = exp(-2 / tau), the sum is r^d (1-r^m)(1-r^-m) / ((1-r)(1-1/r)) / m^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PARAMETERS = ("contrast", "tau_s", "baseline", "gamma")


@dataclass(frozen=True)
class Fit:
    """One model fitted to all bins; every array is (bins,), NaN where a bin could not be fitted."""

    contrast: NDArray[np.float64]
    contrast_err: NDArray[np.float64]
    tau_s: NDArray[np.float64]
    tau_s_err: NDArray[np.float64]
    baseline: NDArray[np.float64]
    baseline_err: NDArray[np.float64]
    gamma: NDArray[np.float64]
    gamma_err: NDArray[np.float64]
    chi_squared: NDArray[np.float64]  # reduced


def smear_nodes(level: int, most: int = 48) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets k (frames) and weights of the mean over pairs at a level; beyond `most` offsets a coarser sum."""
    m = 1 << level
    offsets = np.arange(-(m - 1), m, dtype=np.float64)
    weights = (m - np.abs(offsets)) / m**2
    if len(offsets) > most:
        # the model is smooth on this scale: merge neighbours into their centre of mass
        edges = np.linspace(0, len(offsets), most).astype(int)[:-1]
        merged = np.add.reduceat(weights, edges)
        offsets, weights = np.add.reduceat(weights * offsets, edges) / merged, merged
    return offsets, weights


class Decay:
    """The smeared decay at given lags, 1 at lag 0 without smearing; `delay` in frames, `level` per lag."""

    def __init__(self, delay: NDArray[np.int64], level: NDArray[np.int64]) -> None:
        self._delay, self._m = delay.astype(np.float64), 2.0**level
        nodes = {int(one): smear_nodes(int(one)) for one in np.unique(level)}
        self._starts = np.concatenate([[0], np.cumsum([len(nodes[int(one)][0]) for one in level])[:-1]]).astype(np.intp)
        self._times = np.maximum(
            np.concatenate([d + nodes[int(one)][0] for d, one in zip(delay, level, strict=True)]), 0.0
        )
        self._weights = np.concatenate([nodes[int(one)][1] for one in level])

    def __call__(self, tau: float, gamma: float = 1.0) -> NDArray[np.float64]:
        """exp(-2 (d / tau)^gamma), smeared, (lags,); `tau` in frames."""
        if gamma != 1.0:
            shape = np.exp(-2.0 * (self._times / tau) ** gamma)
            return np.asarray(np.add.reduceat(shape * self._weights, self._starts))
        x = 2.0 / tau
        ratio = np.expm1(-self._m * x) / (self._m * np.expm1(-x))  # the closed form, without overflow for a short tau
        return np.asarray(np.exp(-x * (self._delay - self._m + 1.0)) * ratio**2)


def model(delay: NDArray[np.int64], level: NDArray[np.int64], tau: float, gamma: float = 1.0) -> NDArray[np.float64]:
    """The smeared decay at each lag (frames), 1 at lag 0 without smearing; `tau` in frames."""
    return Decay(delay, level)(tau, gamma)


def fit_bins(
    delay: NDArray[np.int64],
    level: NDArray[np.int64],
    g2: NDArray[np.float64],
    error: NDArray[np.float64],
    frame_time_s: float,
    stretched: bool = False,
) -> Fit:
    """Weighted least squares per bin; `g2`, `error` are (lags, bins), `delay` and `level` per lag.

    Uncertainties are those of independent points with the given errors.
    """
    from scipy.optimize import least_squares

    bins = g2.shape[1]
    out: dict[str, NDArray[np.float64]] = {n: np.full(bins, np.nan) for n in PARAMETERS}
    spread: dict[str, NDArray[np.float64]] = {n: np.full(bins, np.nan) for n in PARAMETERS}
    chi = np.full(bins, np.nan)
    taus = np.geomspace(0.1, 20.0 * float(delay[-1]), 80)
    gammas = np.array([0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0]) if stretched else np.ones(1)
    decay = Decay(delay, level)
    shapes = np.array([[decay(float(t), float(g)) for t in taus] for g in gammas])
    for index in range(bins):
        good = np.isfinite(g2[:, index]) & np.isfinite(error[:, index]) & (error[:, index] > 0)
        free = 4 if stretched else 3
        if good.sum() <= free:
            continue
        y, s, own = g2[good, index], error[good, index], Decay(delay[good], level[good])
        gamma, tau, contrast, baseline = _best_of_grid(shapes[:, :, good], gammas, taus, y, s)

        def residuals(
            p: NDArray[np.float64], own: Decay = own, y: NDArray[np.float64] = y, s: NDArray[np.float64] = s
        ) -> NDArray[np.float64]:
            shape = own(float(np.exp(p[1])), float(p[3]) if len(p) > 3 else 1.0)
            return np.asarray((p[2] + p[0] * shape - y) / s)

        start = [contrast, float(np.log(tau)), baseline] + ([gamma] if stretched else [])
        low = [-np.inf, np.log(0.02), -np.inf] + ([0.1] if stretched else [])
        high = [np.inf, np.log(100.0 * float(delay[-1])), np.inf] + ([4.0] if stretched else [])
        best = least_squares(residuals, start, bounds=(low, high), x_scale="jac", max_nfev=200)
        try:
            covariance = np.linalg.inv(best.jac.T @ best.jac)
        except np.linalg.LinAlgError:
            continue  # no unique minimum: this bin's values stay NaN, and the QC says so
        if not (np.diag(covariance) > 0).all():
            continue
        errors = np.sqrt(np.diag(covariance))
        tau = float(np.exp(best.x[1])) * frame_time_s
        out["contrast"][index], out["tau_s"][index], out["baseline"][index] = best.x[0], tau, best.x[2]
        spread["contrast"][index], spread["tau_s"][index], spread["baseline"][index] = (
            errors[0],
            errors[1] * tau,
            errors[2],
        )
        out["gamma"][index], spread["gamma"][index] = (best.x[3], errors[3]) if stretched else (1.0, 0.0)
        chi[index] = 2.0 * best.cost / (len(y) - free)
    return Fit(
        out["contrast"],
        spread["contrast"],
        out["tau_s"],
        spread["tau_s"],
        out["baseline"],
        spread["baseline"],
        out["gamma"],
        spread["gamma"],
        chi,
    )


def _best_of_grid(
    shapes: NDArray[np.float64],
    gammas: NDArray[np.float64],
    taus: NDArray[np.float64],
    y: NDArray[np.float64],
    s: NDArray[np.float64],
) -> tuple[float, float, float, float]:
    """gamma, tau, contrast, baseline of the best grid point: contrast and baseline are linear once tau is known.

    A gradient method started from a guess alone ends in a wrong minimum on every other noisy curve.
    """
    w = 1.0 / s**2
    sw, sy = w.sum(), (w * y).sum()
    sx, sxx, sxy = shapes @ w, shapes**2 @ w, shapes @ (w * y)
    determinant = sw * sxx - sx**2
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = (sw * sxy - sx * sy) / determinant
        baseline = (sy - contrast * sx) / sw
        cost = ((baseline[..., None] + contrast[..., None] * shapes - y) ** 2 * w).sum(axis=-1)
    # a flat shape (tau far outside the lags) has no determinant, and a negative contrast no meaning
    cost = np.where((determinant > 1e-9 * sw * sxx) & (contrast > 0) & np.isfinite(cost), cost, np.inf)
    g, t = np.unravel_index(int(np.argmin(cost)), cost.shape)
    if not np.isfinite(cost[g, t]):
        return 1.0, float(np.sqrt(taus[0] * taus[-1])), 0.0, sy / sw
    return float(gammas[g]), float(taus[t]), float(contrast[g, t]), float(baseline[g, t])
