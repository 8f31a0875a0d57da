"""Pictures of a result: small files, readable as thumbnails, told apart by the colour-blind, axes with units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from als_analysis.atomic import write_bytes
from als_analysis.xpcs.fits import model
from als_analysis.xpcs.result import Result

# Okabe & Ito's palette (Color Universal Design, 2008), and a marker each, so that colour is never the only sign
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_CURVES = 8
G2_BYTES = 50_000


def _figure(width: float = 4.8, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps global state and looks for a display
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    # line art needs no more than a palette: a third of the bytes
    with Image.open(buffer) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(96).save(small, format="PNG", optimize=True)
    write_bytes(path, small.getvalue())


def plot_g2(result: Result, path: Path) -> None:
    """g2 against delay with errors and the simple fit, for up to 8 q bins spread over all; at most 50 kB."""
    multitau = result.multitau
    if multitau is None:
        return
    bins = multitau.g2.shape[1]
    shown = np.unique(np.linspace(0, bins - 1, min(bins, MOST_CURVES)).astype(int))
    delay_s = multitau.lags.delay * result.lag_time_s
    fit = result.fits.get("simple")
    figure, axes = _figure()
    for number, index in enumerate(shown):
        colour = COLOURS[number % len(COLOURS)]
        q = result.q[index]
        label = f"{q:.2e}" if np.isfinite(q) else f"bin {result.dynamic_numbers[index]}"
        axes.errorbar(
            delay_s,
            multitau.g2[:, index],
            yerr=multitau.g2_err[:, index],
            linestyle="none",
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            elinewidth=0.8,
            label=label,
        )
        if fit is not None and np.isfinite(fit.tau_s[index]):
            curve = fit.baseline[index] + fit.contrast[index] * model(
                multitau.lags.delay, multitau.lags.level, float(fit.tau_s[index]) / result.lag_time_s
            )
            axes.plot(delay_s, curve, color=colour, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_xlabel("delay (s)", fontsize=12)
    axes.set_ylabel("g$_2$", fontsize=12)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.25)
    axes.legend(title="q (1/Å)" if np.isfinite(result.q).any() else None, fontsize=9, title_fontsize=9, frameon=False)
    _save(figure, path)


def plot_scattering(result: Result, path: Path, logarithmic: bool = True) -> None:
    """The mean frame, with the outlines of the dynamic bins; colours logarithmic or linear."""
    from matplotlib.colors import LogNorm, Normalize

    image = np.array(result.scattering.mean_2d)
    finite = image[np.isfinite(image)]
    positive = finite[finite > 0]
    figure, axes = _figure(4.6, 3.8)
    if finite.size == 0:
        axes.text(0.5, 0.5, "no finite pixel", ha="center", transform=axes.transAxes)
    else:
        if logarithmic and positive.size:
            low, high = np.percentile(positive, [2, 99.8])
            norm: Any = LogNorm(vmin=low, vmax=max(high, low * 1.01), clip=True)
            image = np.where(image > low, image, low)
        else:
            low, high = np.percentile(finite, [1, 99.8])
            norm = Normalize(vmin=low, vmax=max(high, low + 1e-12))
        shown = axes.imshow(image, norm=norm, cmap="viridis", origin="upper", interpolation="nearest")
        figure.colorbar(shown, ax=axes, label="mean intensity per frame")
        axes.contour(result.qmap.dynamic_roi_map > 0, levels=[0.5], colors="white", linewidths=0.6)
    axes.set_xlabel("x (pixel)", fontsize=11)
    axes.set_ylabel("y (pixel)", fontsize=11)
    _save(figure, path)


def plot_summary(result: Result, directory: Path) -> list[Path]:
    """The two pictures that a catalogue shows: g2.png and scattering.png."""
    made = []
    if result.multitau is not None:
        plot_g2(result, directory / "g2.png")
        made.append(directory / "g2.png")
    plot_scattering(result, directory / "scattering.png")
    return [*made, directory / "scattering.png"]
