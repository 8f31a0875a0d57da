"""Quality control: what is measured, against which threshold, and the verdict; it judges and never stops a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from als_analysis.xpcs.observe import Observed
from als_analysis.xpcs.result import Multitau, Result


@dataclass(frozen=True)
class Check:
    """One finding: `value` against `threshold`, `verdict` pass, warn or fail, and what it means in words."""

    value: float | None
    threshold: Any
    verdict: str
    explanation: str


def _judged(value: float, warn: float, fail: float, explanation: str) -> Check:
    """Large is bad: above `warn` warns, above `fail` fails; NaN fails."""
    if not np.isfinite(value):
        return Check(None, {"warn": warn, "fail": fail}, "fail", explanation + " (no value could be found)")
    verdict = "pass" if value <= warn else "warn" if value <= fail else "fail"
    return Check(float(value), {"warn": warn, "fail": fail}, verdict, explanation)


def quality(result: Result) -> dict[str, dict[str, Any]]:
    """All checks of a result, as summary.json's "qc": {name: {"value", "threshold", "verdict", "explanation"}}."""
    checks = _frame_checks(result)
    if result.observed is not None:
        checks |= _observed_checks(result.observed)
    if result.multitau is not None and "simple" in result.fits:
        checks |= _fit_checks(result)
        checks["early_late_agreement"] = _early_late(result.multitau)
    return {name: asdict(check) for name, check in checks.items()}


def _frame_checks(result: Result) -> dict[str, Check]:
    intensity = result.scattering.intensity_vs_time
    finite = intensity[np.isfinite(intensity)]
    if finite.size == 0:
        return {"outlier_frames": _judged(float("nan"), 0.005, 0.05, "part of the frames whose mean is far from usual")}
    middle = float(np.median(finite))
    spread = 1.4826 * float(np.median(np.abs(finite - middle)))  # the standard deviation of normal noise
    floor = max(spread, 1e-3 * abs(middle), 1e-30)
    outliers = np.count_nonzero(~(np.abs(intensity - middle) <= 8 * floor)) / len(intensity)
    quarter = max(len(finite) // 4, 1)
    drift = abs(float(np.mean(finite[-quarter:]) - np.mean(finite[:quarter]))) / max(abs(middle), 1e-30)
    return {
        "outlier_frames": _judged(outliers, 0.005, 0.05, "part of the frames whose mean is far from usual"),
        "intensity_drift": _judged(drift, 0.1, 0.5, "relative change of the mean intensity, first to last quarter"),
    }


def _observed_checks(seen: Observed) -> dict[str, Check]:
    return {
        "dropped_frames": _judged(seen.empty_frames, 0.0, 0.01, "part of the frames without any intensity"),
        "repeated_frames": _judged(seen.repeated_frames, 0.0, 0.01, "part of the frames equal to the one before"),
        "saturation": _judged(seen.saturated, 1e-6, 1e-3, "part of the values at the top of the detector's range"),
        "dead_pixels": _judged(seen.dead_pixels, 0.01, 0.2, "part of the used pixels that never saw anything"),
        "hot_pixels": _judged(seen.hot_pixels, 1e-4, 0.02, "part of the used pixels above 10 times their bin's mean"),
        "masked_pixels": _judged(
            seen.masked_pixels, 0.05, 0.5, "part of the used pixels left out: NaN, infinity, or masked by the detector"
        ),
        "beam_drift": _judged(seen.drift_pixels, 0.5, 3.0, "pixels by which the centre of the intensity moved"),
    }


def _fit_checks(result: Result) -> dict[str, Check]:
    fit = result.fits["simple"]
    fitted = np.isfinite(fit.tau_s)
    off = float(np.max(np.abs(fit.baseline[fitted] - 1.0))) if fitted.any() else float("nan")
    chi = float(np.median(fit.chi_squared[fitted])) if fitted.any() else float("nan")
    contrast = fit.contrast[fitted]
    outside = float(np.mean((contrast <= 0.0) | (contrast > 1.0))) if fitted.any() else float("nan")
    return {
        "fit_converged": _judged(1.0 - float(fitted.mean()), 0.0, 0.5, "part of the q bins that could not be fitted"),
        "baseline": _judged(off, 0.02, 0.1, "largest distance of a fitted g2 baseline from 1"),
        "contrast_in_range": _judged(outside, 0.0, 0.25, "part of the q bins whose contrast is not in (0, 1]"),
        "chi_squared": _judged(chi, 5.0, 50.0, "median reduced chi squared of the simple exponential fits"),
    }


def _early_late(multitau: Multitau) -> Check:
    """How far the first and the last partial g2 are apart, relative to the contrast, at the eight shortest lags."""
    words = "distance of the first from the last part's g2 at short lags, relative to the largest g2 - 1"
    if multitau.partial is None or len(multitau.partial) < 2:
        return Check(None, {"warn": 0.1, "fail": 0.3}, "pass", words + " (not in parts: not judged)")
    rows = multitau.lags.level == 0
    distance = np.abs(multitau.partial[0][rows] - multitau.partial[-1][rows])
    height = np.nanmax(np.abs(multitau.g2[rows] - 1.0), axis=0, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.nanmean(distance, axis=0) / height
    apart = apart[np.isfinite(apart)]
    return _judged(float(np.median(apart)) if apart.size else float("nan"), 0.1, 0.3, words)
