"""Quality control: what is measured, against which threshold, and the verdict; it judges and never stops a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from als_analysis.xpcs.result import Result


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
    """All checks of a result, as summary.json's "qc"."""
    checks = _frame_checks(result)
    if result.multitau is not None and "simple" in result.fits:
        checks |= _fit_checks(result)
    return {name: asdict(check) for name, check in checks.items()}


def _frame_checks(result: Result) -> dict[str, Check]:
    intensity = result.scattering.intensity_vs_time
    middle = float(np.median(intensity))
    spread = 1.4826 * float(np.median(np.abs(intensity - middle)))  # the standard deviation of normal noise
    floor = max(spread, 1e-3 * abs(middle), 1e-30)
    empty = np.count_nonzero((intensity <= 0) | ~np.isfinite(intensity)) / len(intensity)
    outliers = np.count_nonzero(np.abs(intensity - middle) > 8 * floor) / len(intensity)
    quarter = max(len(intensity) // 4, 1)
    drift = abs(float(np.mean(intensity[-quarter:]) - np.mean(intensity[:quarter]))) / max(abs(middle), 1e-30)
    return {
        "dropped_frames": _judged(float(empty), 0.0, 0.01, "part of the frames without any intensity"),
        "outlier_frames": _judged(
            float(outliers), 0.005, 0.05, "part of the frames whose mean is far from the others'"
        ),
        "intensity_drift": _judged(drift, 0.1, 0.5, "relative change of the mean intensity from first to last quarter"),
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
