"""Figures as PNG files: score histogram, ROC with its interval, contact sheet of explanations, heat overlay.

Display only: clipping and colour happen here and nowhere else. Drawn on matplotlib's Agg canvas by its object
interface, so no global state is touched. Colours are Okabe & Ito's, inferno and PuOr: colour-blind readers tell them
apart.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xadflow.errors import BadInput
from xadflow.images import to_picture
from xadflow.metrics.intervals import bootstrap_interval, resampled_tables, wilson_rate
from xadflow.metrics.ranks import auroc, finite_scores, rank, tpr_at_fpr_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMAL, ANOMALY, INK, QUIET, RULE = "#0072B2", "#D55E00", "#1b1f24", "#5b6470", "#d5d9de"
HEAT, CHANGE = "inferno", "PuOr_r"
TITLE_PT, TEXT_PT, SMALL_PT = 11.0, 9.0, 8.0
DPI = 160


class SheetRow(NamedTuple):
    """One line of a contact sheet; a picture that does not exist is None.

    `original` and `counterfactual` are uint8 [C,H,W] or [H,W]; `heatmap` is raw float [H,W]; `difference` is
    counterfactual minus original as float [H,W] or [C,H,W] on the [0,1] scale (channels are averaged).
    """

    original: NDArray[np.uint8]
    heatmap: NDArray[np.floating[Any]] | None
    counterfactual: NDArray[np.uint8] | None
    difference: NDArray[np.floating[Any]] | None
    caption: str


def score_histogram(normal_scores: ArrayLike, anomaly_scores: ArrayLike, threshold: float | None, path: Path) -> None:
    """Raw scores of both classes on shared bins, each as a share of its class, with the threshold.

    A long tail is gathered in the last bar, and the axis says so. Either class may be empty. Raises BadInput when both
    are, or a score is not finite.
    """
    normals, anomalies = (np.asarray(scores, dtype=np.float64).ravel() for scores in (normal_scores, anomaly_scores))
    both = finite_scores(np.concatenate([normals, anomalies]))
    low, high, gathered = _shown_range(both, threshold)
    edges = np.linspace(low, high, int(np.clip(round(2 * both.size ** (1 / 2)), 12, 48)) + 1)
    figure, axes = _canvas(7.2, 3.9)
    axes.set_position((0.1, 0.15, 0.87, 0.67))
    for scores, colour, name in ((normals, NORMAL, "normal"), (anomalies, ANOMALY, "anomalous")):
        if scores.size:
            counts, _ = np.histogram(np.clip(scores, low, high), edges)
            axes.stairs(counts / scores.size, edges, fill=True, color=colour, alpha=0.32)
            axes.stairs(counts / scores.size, edges, color=colour, linewidth=1.4, label=f"{scores.size:,} {name}")
    _percent_axis(axes)
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    tail = " (last bar: all scores above)" if gathered else ""
    axes.set_xlabel(f"raw anomaly score{tail}", size=TEXT_PT, color=INK)
    axes.set_ylabel("share of its class", size=TEXT_PT, color=INK)
    figure.text(0.1, 0.93, "Scores of normal and anomalous images", size=TITLE_PT, weight="bold", color=INK)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=f"threshold {threshold:.4g}")
        figure.text(0.1, 0.868, _rates(normals, anomalies, threshold), size=SMALL_PT, color=QUIET)
    axes.legend(frameon=False, fontsize=TEXT_PT, labelcolor=INK, loc="upper right")
    save_figure(figure, path)


def roc_with_interval(scores: ArrayLike, labels: ArrayLike, path: Path, seed: int = 0, bootstrap: int = 1000) -> None:
    """ROC curve with the pointwise 95 % band of a bootstrap over images, drawn within each class.

    Raises BadInput as `rank` does.
    """
    ranked = rank(scores, labels)
    grid = np.linspace(0.0, 1.0, 201)
    drawn = np.concatenate([tpr_at_fpr_of(*table, grid) for table in resampled_tables(ranked, bootstrap, seed)])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    interval = bootstrap_interval(scores, labels, bootstrap=2000, seed=seed)
    anomalies, normals = ranked.table()
    figure, axes = _canvas(4.9, 5.2)
    axes.set_position((0.135, 0.105, 0.825, 0.777))
    axes.fill_between(grid, low, high, color=NORMAL, alpha=0.2, linewidth=0, label="95 % of resamples of the images")
    recall = np.append(0.0, anomalies.cumsum() / anomalies.sum())
    alarms = np.append(0.0, normals.cumsum() / normals.sum())
    axes.plot(alarms, recall, color=NORMAL, linewidth=1.8, solid_joinstyle="round", label="this set")
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1.0, linestyle=(0, (1, 2)), label="chance")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    _percent_axis(axes)
    axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_xlabel("false alarms: share of normals flagged", size=TEXT_PT, color=INK)
    axes.set_ylabel("recall: share of anomalies flagged", size=TEXT_PT, color=INK)
    axes.legend(frameon=False, fontsize=TEXT_PT, labelcolor=INK, loc="lower right")
    figure.text(0.135, 0.945, f"AUROC {auroc(scores, labels):.3f}", size=TITLE_PT, weight="bold", color=INK)
    figure.text(
        0.135,
        0.902,
        f"95 % interval {interval.low:.3f} to {interval.high:.3f} over {normals.sum():,} normals "
        f"and {anomalies.sum():,} anomalies",
        size=SMALL_PT,
        color=QUIET,
    )
    save_figure(figure, path)


def contact_sheet(rows: Sequence[SheetRow | tuple[Any, ...]], path: Path, title: str = "Explanations") -> None:
    """Small multiples, a line an image: original, heatmap, counterfactual, and what changes between them.

    `rows` are SheetRow or tuples in its order. Heatmaps share one scale and differences another, so that lines can be
    compared; both scales are drawn below. Raises BadInput without any row.
    """
    sheet = [SheetRow(*row) for row in rows]
    if not sheet:
        raise BadInput("a contact sheet needs at least one row", seen=0, next_step="leave it out when nothing is shown")
    heats = [finite_scores(row.heatmap) for row in sheet if row.heatmap is not None]
    low, high = (min(map(np.min, heats)), max(map(np.max, heats))) if heats else (0.0, 1.0)
    changes = [_signed(row.difference) for row in sheet if row.difference is not None]
    most = max((float(np.abs(change).max()) for change in changes), default=0.0) or 1.0
    cell, gap, caption, margin, head, foot = 1.55, 0.07, 0.34, 0.2, 0.78, 0.62  # inches
    width = 2 * margin + 4 * cell + 3 * gap
    height = head + len(sheet) * (cell + caption) + foot
    figure = new_figure(width, height)

    def place(column: int, top: float) -> Axes:
        left = margin + column * (cell + gap)
        axes = figure.add_axes((left / width, (height - top - cell) / height, cell / width, cell / height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=RULE, linewidth=0.6)
        return axes

    figure.text(margin / width, 1 - 0.3 / height, plain(title), size=TITLE_PT, weight="bold", color=INK)
    for column, name in enumerate(("original", "heatmap", "counterfactual", "difference")):
        x = (margin + column * (cell + gap)) / width
        figure.text(x, 1 - (head - 0.1) / height, name, size=TEXT_PT, color=QUIET)
    for line, row in enumerate(sheet):
        top = head + line * (cell + caption)
        _picture(place(0, top), row.original)
        _mapped(place(1, top), row.heatmap, HEAT, low, high)
        _picture(place(2, top), row.counterfactual)
        change = None if row.difference is None else _signed(row.difference)
        _mapped(place(3, top), change, CHANGE, -most, most)
        figure.text(margin / width, 1 - (top + cell + 0.17) / height, plain(row.caption), size=SMALL_PT, color=INK)
    for column, (name, colours, ends) in enumerate(
        (("score per pixel", HEAT, (low, high)), ("darker / brighter, share of full range", CHANGE, (-most, most)))
    ):
        left = margin + column * (2 * cell + 3 * gap + 0.03)
        axes = figure.add_axes((left / width, 0.34 / height, (2 * cell - 0.03) / width, 0.09 / height))
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto", extent=(0, 1, 0, 1))
        axes.set_axis_off()
        for x, text, side in ((0, f"{ends[0]:.3g}", "left"), (0.5, name, "center"), (1, f"{ends[1]:.3g}", "right")):
            axes.text(x, -0.6, text, size=SMALL_PT, color=QUIET, ha=side, va="top", transform=axes.transAxes)
    save_figure(figure, path)


def heat_overlay(
    original: NDArray[np.uint8], heatmap: NDArray[np.floating[Any]], low: float, high: float
) -> NDArray[np.uint8]:
    """uint8 [3,H,W]: the original in grey with the heat laid over it, more opaque where it is hotter. Display only.

    `original` is uint8 [C,H,W], `heatmap` raw [H,W]; values at or below `low` show the bare picture, at or above `high`
    the full colour. Raises BadInput when sizes differ or a value is not finite.
    """
    from matplotlib import colormaps

    heat = finite_scores(heatmap)
    if original.ndim != 3 or heat.shape != original.shape[1:]:
        raise BadInput(
            "picture [C,H,W] and heatmap [H,W] must have one size",
            seen=(original.shape, heat.shape),
            next_step="resize the heatmap to the picture",
        )
    strength = np.clip((heat - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(heat)
    luma = np.array([0.299, 0.587, 0.114]) if original.shape[0] == 3 else np.ones(1)
    grey = np.tensordot(luma, original.astype(np.float64) / 255.0, 1)  # (H, W)
    colour = np.asarray(colormaps[HEAT](0.25 + 0.7 * strength))[..., :3]  # inferno's black end would hide the picture
    alpha = (0.78 * strength**0.8)[..., None]
    blended = (1 - alpha) * grey[..., None] + alpha * colour  # (H, W, 3)
    return np.ascontiguousarray(to_picture(blended).transpose(2, 0, 1))


def difference_picture(
    original: NDArray[np.uint8], counterfactual: NDArray[np.uint8], most: float | None = None
) -> NDArray[np.uint8]:
    """uint8 [3,H,W]: what a counterfactual makes darker (violet) and brighter (orange), white where it changes nothing.

    Both are uint8 [C,H,W]; channels are averaged; full colour at a change of `most` on the [0,1] scale (the largest
    change where it is None). Display only. Raises BadInput when shapes differ.
    """
    from matplotlib import colormaps

    if original.ndim != 3 or original.shape != counterfactual.shape:
        raise BadInput(
            "original and counterfactual must have one shape [C,H,W]",
            seen=(original.shape, counterfactual.shape),
            next_step="compare decoded images",
        )
    change = (counterfactual.astype(np.float64) - original.astype(np.float64)).mean(0) / 255.0  # (H, W)
    scale = (float(np.abs(change).max()) if most is None else most) or 1.0
    colour = np.asarray(colormaps[CHANGE](0.5 + 0.5 * np.clip(change / scale, -1.0, 1.0)))[..., :3]
    colour[change == 0.0] = 1.0
    return np.ascontiguousarray(to_picture(colour).transpose(2, 0, 1))


def _shown_range(scores: NDArray[np.float64], threshold: float | None) -> tuple[float, float, bool]:
    """Lowest and highest score shown, and whether a tail longer than the bulk itself was cut off above."""
    low, high = float(scores.min()), float(scores.max())
    bulk_low, bulk_high = (float(q) for q in np.quantile(scores, (0.01, 0.985)))
    gathered = high - bulk_high > 0.6 * (bulk_high - bulk_low) > 0
    high = bulk_high + 0.1 * (bulk_high - bulk_low) if gathered else high
    if threshold is not None and math.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    pad = 0.02 * (high - low) or 0.5
    return low - pad, high + (0.0 if gathered else pad), gathered


def _rates(normals: NDArray[np.float64], anomalies: NDArray[np.float64], threshold: float) -> str:
    parts = []
    for name, scores in (("recall", anomalies), ("false alarms", normals)):
        if scores.size:
            rate = wilson_rate(int((scores > threshold).sum()), scores.size)
            parts.append(f"{name} {rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})")
    return "at the threshold: " + ", ".join(parts)


def _signed(difference: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    values = finite_scores(difference)
    return np.asarray(values.mean(0) if values.ndim == 3 else values, dtype=np.float64)


def _picture(axes: Axes, pixels: NDArray[np.uint8] | None) -> None:
    if pixels is None:
        return _absent(axes)
    shown = pixels if pixels.ndim == 2 else pixels.transpose(1, 2, 0).squeeze()
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _mapped(axes: Axes, values: NDArray[np.floating[Any]] | None, colours: str, low: float, high: float) -> None:
    if values is None:
        return _absent(axes)
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _absent(axes: Axes) -> None:
    axes.text(0.5, 0.5, "none", size=SMALL_PT, color=QUIET, ha="center", va="center", transform=axes.transAxes)


def plain(text: str) -> str:
    """A file name as matplotlib may draw it: printable, on one line, at most 100 characters, and never a formula."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    shown = shown if len(shown) <= 100 else f"{shown[:48]} … {shown[-48:]}"
    return shown.replace("$", r"\$")


def _percent_axis(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def new_figure(width: float, height: float) -> Figure:
    """A white figure of this size in inches, on the Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    figure = Drawing(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one axes in the house look."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    house_look(axes)
    return figure, axes


def house_look(axes: Axes) -> None:
    """Quiet axes and rules, the same in every chart."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(labelsize=SMALL_PT, colors=QUIET, labelcolor=INK, length=3)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path) -> None:
    """Write it as PNG, whole or not at all; equal figures give equal bytes."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script that the font lacks shows as boxes
        figure.savefig(stream, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(stream.getvalue())
    partial.replace(path)  # a reader sees the old figure or the new one, never half of one
