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
            return self._mean(np.exp(-2.0 * (self._times / tau) ** gamma))
        x = 2.0 / tau
        ratio = np.expm1(-self._m * x) / (self._m * np.expm1(-x))  # the closed form, without overflow for a short tau
        return np.asarray(np.exp(-x * (self._delay - self._m + 1.0)) * ratio**2)

    def with_slopes(self, log_tau: float, gamma: float) -> tuple[NDArray[np.float64], ...]:
        """The decay and its derivatives by log tau and by gamma."""
        scaled = self._times * np.exp(-log_tau)
        power = scaled**gamma
        shape = np.exp(-2.0 * power)
        by_power = -2.0 * power * shape
        logarithm = np.log(np.maximum(scaled, 1e-300))
        return self._mean(shape), self._mean(-gamma * by_power), self._mean(by_power * logarithm)

    def _mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(values * self._weights, self._starts))


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
    bins = g2.shape[1]
    out: dict[str, NDArray[np.float64]] = {n: np.full(bins, np.nan) for n in PARAMETERS}
    spread: dict[str, NDArray[np.float64]] = {n: np.full(bins, np.nan) for n in PARAMETERS}
    chi = np.full(bins, np.nan)
    taus = np.geomspace(0.1, 20.0 * float(delay[-1]), 60)
    gammas = np.array([0.5, 0.75, 1.0, 1.4, 2.0]) if stretched else np.ones(1)
    decay = Decay(delay, level)
    shapes = np.array([[decay(float(t), float(g)) for t in taus] for g in gammas])
    for index in range(bins):
        good = np.isfinite(g2[:, index]) & np.isfinite(error[:, index]) & (error[:, index] > 0)
        free = 4 if stretched else 3
        if good.sum() <= free:
            continue
        y, s, own = g2[good, index], error[good, index], Decay(delay[good], level[good])
        gamma, tau, contrast, baseline = _best_of_grid(shapes[:, :, good], gammas, taus, y, s)

        start = np.array([contrast, np.log(tau), baseline, gamma])
        best, covariance, cost = _refined(own, y, s, start, free, np.log(100.0 * float(delay[-1])))
        if covariance is None:
            continue  # no unique minimum: this bin's values stay NaN, and the QC says so
        errors = np.sqrt(np.diag(covariance))
        tau = float(np.exp(best[1])) * frame_time_s
        out["contrast"][index], out["tau_s"][index], out["baseline"][index] = best[0], tau, best[2]
        spread["contrast"][index], spread["tau_s"][index], spread["baseline"][index] = (
            errors[0],
            errors[1] * tau,
            errors[2],
        )
        out["gamma"][index], spread["gamma"][index] = (best[3], errors[3]) if stretched else (1.0, 0.0)
        chi[index] = cost / (len(y) - free)
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


def _refined(
    decay: Decay, y: NDArray[np.float64], s: NDArray[np.float64], p: NDArray[np.float64], free: int, highest: float
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, float]:
    """The nearest minimum from p = (contrast, log tau, baseline, gamma), of which the first `free` are free.

    Levenberg-Marquardt (Press et al., Numerical Recipes, 15.5) with the exact derivatives; log tau and gamma stay
    inside log 0.02 … highest and 0.1 … 4. Gives p, the covariance (None where there is none), and chi squared.
    """

    def at(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shape, by_tau, by_gamma = decay.with_slopes(p[1], p[3])
        slopes = np.stack([shape, p[0] * by_tau, np.ones_like(shape), p[0] * by_gamma][:free], axis=1)
        return (p[2] + p[0] * shape - y) / s, slopes / s[:, None]

    low, high = np.array([-np.inf, np.log(0.02), -np.inf, 0.1]), np.array([np.inf, highest, np.inf, 4.0])
    away, slopes = at(p)
    cost, damping = float(away @ away), 1e-3
    for _ in range(100):
        normal, gradient = slopes.T @ slopes, slopes.T @ away
        try:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient)
        except np.linalg.LinAlgError:
            return p, None, cost
        tried = p.copy()
        tried[:free] += step
        tried = np.clip(tried, low, high)
        new_away, new_slopes = at(tried)
        new_cost = float(new_away @ new_away)
        if new_cost <= cost:
            done = cost - new_cost <= 1e-10 * cost
            p, away, slopes, cost, damping = tried, new_away, new_slopes, new_cost, max(damping / 10.0, 1e-12)
            if done:
                break
        else:
            damping *= 10.0
            if damping > 1e12:
                break
    try:
        covariance = np.asarray(np.linalg.inv(slopes.T @ slopes), dtype=np.float64)
    except np.linalg.LinAlgError:
        return p, None, cost
    return p, covariance if (np.diag(covariance) > 0).all() else None, cost


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
