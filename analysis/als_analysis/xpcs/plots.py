"""Pictures of a result: small files, readable as thumbnails, told apart by the colour-blind, axes with units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from als_analysis.atomic import write_bytes
from als_analysis.xpcs.fits import Fit, model
from als_analysis.xpcs.result import Result, read_two_time

# Okabe & Ito's palette (Color Universal Design, 2008), and a marker each, so that colour is never the only sign
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_CURVES = 8
_LABEL, _TICKS = 12, 10


def _figure(width: float = 4.8, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps global state and looks for a display
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path, x: str | None = None, y: str | None = None) -> Path:
    import io

    from PIL import Image

    for axes in figure.axes[:1]:
        if x is not None:
            axes.set_xlabel(x, fontsize=_LABEL)
        if y is not None:
            axes.set_ylabel(y, fontsize=_LABEL)
        axes.tick_params(labelsize=_TICKS)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    # line art needs no more than a palette: a third of the bytes
    with Image.open(buffer) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(96).save(small, format="PNG", optimize=True)
    write_bytes(path, small.getvalue())
    return path


def _spread_over(count: int, most: int = MOST_CURVES) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _fitted(result: Result, fit: Fit, index: int) -> NDArray[np.float64]:
    assert result.multitau is not None
    lags = result.multitau.lags
    tau = float(fit.tau_s[index]) / result.lag_time_s
    return np.asarray(
        fit.baseline[index] + fit.contrast[index] * model(lags.delay, lags.level, tau, float(fit.gamma[index]))
    )


def _q_label(result: Result, index: int) -> str:
    q = result.q[index]
    return f"{q:.2e}" if np.isfinite(q) else f"bin {result.dynamic_numbers[index]}"


def plot_g2(result: Result, path: Path) -> Path | None:
    """g2 against delay with errors and the simple fit, for up to 8 q bins spread over all; at most 50 kB."""
    multitau = result.multitau
    if multitau is None:
        return None
    delay_s = multitau.lags.delay * result.lag_time_s
    fit = result.fits.get("simple")
    figure, axes = _figure()
    for number, index in enumerate(_spread_over(multitau.g2.shape[1])):
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            delay_s,
            multitau.g2[:, index],
            yerr=multitau.g2_err[:, index],
            linestyle="none",
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            elinewidth=0.8,
            label=_q_label(result, int(index)),
        )
        if fit is not None and np.isfinite(fit.tau_s[index]):
            axes.plot(delay_s, _fitted(result, fit, int(index)), color=colour, linewidth=1.4)
    axes.set_xscale("log")
    axes.grid(alpha=0.25)
    axes.legend(title="q (1/Å)" if np.isfinite(result.q).any() else None, fontsize=9, title_fontsize=9, frameon=False)
    return _save(figure, path, "delay (s)", "g$_2$")


def plot_g2_grid(result: Result, path: Path) -> Path | None:
    """One panel per q bin (up to 16): g2 with errors, the simple fit solid, the stretched one dashed."""
    multitau = result.multitau
    if multitau is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _spread_over(multitau.g2.shape[1], 16)
    columns = int(np.ceil(np.sqrt(len(shown))))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.4 * columns + 0.6, 2.0 * rows + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, squeeze=False)).ravel()
    delay_s = multitau.lags.delay * result.lag_time_s
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    for panel, index in zip(panels, shown, strict=False):
        panel.errorbar(
            delay_s,
            multitau.g2[:, index],
            yerr=multitau.g2_err[:, index],
            linestyle="none",
            marker="o",
            markersize=2.5,
            color=COLOURS[0],
            elinewidth=0.7,
        )
        for name, style, colour in (("simple", "-", COLOURS[1]), ("stretched", "--", COLOURS[2])):
            fit = result.fits.get(name)
            if fit is not None and np.isfinite(fit.tau_s[index]):
                panel.plot(delay_s, _fitted(result, fit, int(index)), style, color=colour, linewidth=1.2, label=name)
        panel.set_xscale("log")
        panel.set_title(f"q = {_q_label(result, int(index))} 1/Å", fontsize=9)
        panel.tick_params(labelsize=8)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("delay (s)", fontsize=_LABEL)
    figure.supylabel("g$_2$", fontsize=_LABEL)
    return _save(figure, path)


def plot_scattering(result: Result, path: Path, logarithmic: bool = True) -> Path:
    """The mean frame, blemishes in grey, with the outlines of the dynamic bins; colours logarithmic or linear."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    image = np.array(result.scattering.mean_2d)
    if result.qmap.blemish is not None:
        image[result.qmap.blemish == 0] = np.nan
    finite = image[np.isfinite(image)]
    positive = finite[finite > 0]
    figure, axes = _figure(4.6, 3.8)
    if finite.size == 0:
        axes.text(0.5, 0.5, "no finite pixel", ha="center", transform=axes.transAxes)
    else:
        if logarithmic and positive.size:
            low, high = np.percentile(positive, [2, 99.8])
            norm: Any = LogNorm(vmin=low, vmax=max(high, low * 1.01), clip=True)
            image = np.where(image < low, low, image)
        else:
            low, high = np.percentile(finite, [1, 99.8])
            norm = Normalize(vmin=low, vmax=max(high, low + 1e-12))
        colours = colormaps["viridis"].with_extremes(bad="lightgrey")
        shown = axes.imshow(image, norm=norm, cmap=colours, origin="upper", interpolation="nearest")
        figure.colorbar(shown, ax=axes, label="mean intensity per frame")
        axes.contour(result.qmap.dynamic_roi_map > 0, levels=[0.5], colors="white", linewidths=0.6)
    return _save(figure, path, "x (pixel)", "y (pixel)")


def plot_i_of_q(result: Result, path: Path, segments: bool = False) -> Path:
    """Mean intensity of the static bins against q; or one curve per tenth of the frames, early dark, late bright."""
    from matplotlib import colormaps

    qmap = result.qmap
    numbers = qmap.numbers()[1]
    q = np.array([qmap.static.q_of(int(n)) for n in numbers])
    known = np.isfinite(q).any()
    q = q if known else numbers.astype(float)
    order = np.argsort(q, kind="stable")
    figure, axes = _figure()
    curves = result.scattering.segments_1d if segments else result.scattering.mean_1d[None]
    for number, curve in enumerate(curves):
        colour = colormaps["viridis"](number / max(len(curves) - 1, 1)) if segments else COLOURS[0]
        label = f"{number + 1} of {len(curves)}" if segments and number in (0, len(curves) - 1) else None
        axes.plot(q[order], curve[order], ".-", color=colour, markersize=3, linewidth=1, label=label)
    if np.nanmin(curves, initial=1.0) > 0:
        axes.set_yscale("log")
    if segments:
        axes.legend(title="part of the frames", fontsize=9, title_fontsize=9, frameon=False)
    axes.grid(alpha=0.25)
    return _save(figure, path, "q (1/Å)" if known else "static bin", "mean intensity per frame")


def plot_intensity(result: Result, path: Path) -> Path:
    """Mean intensity of the used pixels against time."""
    figure, axes = _figure()
    intensity = result.scattering.intensity_vs_time
    every = max(1, len(intensity) // 4000)
    axes.plot(
        np.arange(len(intensity))[::every] * result.lag_time_s, intensity[::every], color=COLOURS[0], linewidth=0.9
    )
    axes.grid(alpha=0.25)
    return _save(figure, path, "time (s)", "mean intensity per frame")


def plot_tau(result: Result, path: Path) -> Path | None:
    """Correlation time against q with errors, from both fits, and the power law through the simple ones."""
    if "simple" not in result.fits:
        return None
    figure, axes = _figure()
    known = np.isfinite(result.q).any()
    q = result.q if known else result.dynamic_numbers.astype(float)
    for number, (name, fit) in enumerate(result.fits.items()):
        axes.errorbar(
            q,
            fit.tau_s,
            yerr=fit.tau_s_err,
            linestyle="none",
            marker=MARKERS[number],
            color=COLOURS[number],
            markersize=5,
            label=name,
            alpha=0.9,
        )
    fit = result.fits["simple"]
    good = np.isfinite(fit.tau_s) & (fit.tau_s > 0) & (q > 0)
    if good.sum() >= 3 and known:
        slope, height = np.polyfit(np.log(q[good]), np.log(fit.tau_s[good]), 1)
        line = np.sort(q[good])
        axes.plot(
            line,
            np.exp(height + slope * np.log(line)),
            "--",
            color="#000000",
            linewidth=1,
            label=f"q$^{{{slope:.2f}}}$",
        )
    if good.any():
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.legend(fontsize=9, frameon=False)
    axes.grid(alpha=0.25, which="both")
    return _save(figure, path, "q (1/Å)" if known else "dynamic bin", "correlation time (s)")


def plot_two_time(result: Result, c2: NDArray[np.float32], bin_: int, path: Path) -> Path:
    """One two-time map, mirrored to both triangles and reduced to at most 400 points a side."""
    every = max(1, -(-len(c2) // 400))
    part = c2[::every, ::every]
    image = np.triu(part) + np.triu(part, 1).T
    off = image[~np.eye(len(image), dtype=bool)]
    low, high = np.nanpercentile(off, [2, 99.5]) if off.size else (1.0, 2.0)
    figure, axes = _figure(4.6, 3.8)
    seconds = len(c2) * result.lag_time_s
    shown = axes.imshow(
        image,
        cmap="viridis",
        origin="lower",
        vmin=low,
        vmax=max(high, low + 1e-9),
        extent=(0, seconds, 0, seconds),
        interpolation="nearest",
    )
    figure.colorbar(shown, ax=axes, label="C(t$_1$, t$_2$)")
    q = result.qmap.dynamic.q_of(bin_)
    axes.set_title(f"q = {q:.2e} 1/Å" if np.isfinite(q) else f"bin {bin_}", fontsize=10)
    return _save(figure, path, "t$_1$ (s)", "t$_2$ (s)")


def plot_summary(result: Result, directory: Path) -> list[Path]:
    """The two pictures that a catalogue shows: g2.png and scattering.png."""
    made = [plot_g2(result, directory / "g2.png"), plot_scattering(result, directory / "scattering.png")]
    return [path for path in made if path is not None]


def plot_all(result: Result, file: Path, directory: Path) -> list[Path]:
    """Every picture of a result (and of the two-time maps in its file), into `directory`; returns their paths."""
    made: list[Path | None] = [
        *plot_summary(result, directory),
        plot_scattering(result, directory / "scattering_linear.png", logarithmic=False),
        plot_i_of_q(result, directory / "i_of_q.png"),
        plot_i_of_q(result, directory / "i_of_q_segments.png", segments=True),
        plot_intensity(result, directory / "intensity.png"),
        plot_g2_grid(result, directory / "g2_grid.png"),
        plot_tau(result, directory / "tau.png"),
    ]
    for bin_, c2 in read_two_time(file):
        made.append(plot_two_time(result, c2, bin_, directory / f"two_time_{bin_:05d}.png"))
    return [path for path in made if path is not None]
