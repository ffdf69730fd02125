"""The picture of a probe: marked images, heatmaps of control and probed detector, and the curves over the rates.

Display only. Each heatmap has its own colour scale, from its minimum to its maximum, as the heat share counts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xadflow.pictures.plots import (
    ANOMALY,
    HEAT,
    INK,
    NORMAL,
    QUIET,
    RULE,
    SMALL_PT,
    TEXT_PT,
    TITLE_PT,
    house_look,
    new_figure,
    save_figure,
)
from xadflow.work.probe.planting import TestImages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEN = "#009E73"  # Okabe & Ito, as the others
OUTLINE = "#56B4E9"
COPIES = (
    ("raw", "no mark", INK),
    ("planted", "mark as planted", NORMAL),
    ("other_side", "mark on the other side", ANOMALY),
)
CELL, GAP, CHART, HEAD, FOOT, MARGIN = 1.35, 0.08, 3.0, 1.05, 0.55, 0.25  # inches


def draw_probe(
    report: Mapping[str, Any],
    test: TestImages,
    shown: Sequence[int],
    control: NDArray[np.float32],
    probed: NDArray[np.float32],
    path: Path,
) -> None:
    """Write the picture of one probe; `control` and `probed` [P,H,W] are maps of the marked test images `shown` [P]."""
    rates = [row["rate"] for row in report["rates"]]
    charts = MARGIN + 3 * (CELL + GAP) + 0.6
    rows = max(3, len(shown))
    width, height = charts + 2 * CHART + 0.6 + MARGIN, HEAD + rows * (CELL + GAP) + FOOT
    figure = new_figure(width, height)
    side = "outliers" if report["side"] == "outliers" else "normal images"
    figure.text(
        MARGIN / width,
        1 - 0.34 / height,
        f"Watermark on {rates[-1]:.0%} of the {side}: {report['detector']} on {report['dataset']}",
        size=TITLE_PT,
        weight="bold",
        color=INK,
    )
    figure.text(
        MARGIN / width,
        1 - 0.6 / height,
        f"{'ALARM' if report['alarm'] else 'no alarm'}; the mark covers "
        f"{report['rates'][0]['heat']['chance']:.1%} of an image; bands: 95 % of resamples of the test images",
        size=SMALL_PT,
        color=QUIET,
    )
    for column, name in enumerate(("marked test image", "heat, control", f"heat, {rates[-1]:.0%} planted")):
        figure.text((MARGIN + column * (CELL + GAP)) / width, 1 - (HEAD - 0.1) / height, name, size=SMALL_PT, color=INK)
    for line, row in enumerate(shown):
        mask = test.masks[row].numpy()
        for column in range(3):
            left, top = MARGIN + column * (CELL + GAP), HEAD + line * (CELL + GAP)
            axes = figure.add_axes((left / width, 1 - (top + CELL) / height, CELL / width, CELL / height))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=RULE, linewidth=0.6)
            if column == 0:
                axes.imshow(
                    test.marked[row].permute(1, 2, 0).squeeze(-1).numpy(),
                    cmap="gray",
                    vmin=0,
                    vmax=255,
                    interpolation="nearest",
                )
            else:
                axes.imshow((control, probed)[column - 1][line], cmap=HEAT, interpolation="nearest")
            _outline(axes, mask)
    bottom, tall = FOOT / height, (rows * (CELL + GAP) - 0.25) / height
    heat = figure.add_axes((charts / width, bottom, (CHART - 0.3) / width, tall))
    _heat_curve(heat, report["rates"], rates)
    ranks = figure.add_axes(((charts + CHART + 0.4) / width, bottom, (CHART - 0.1) / width, tall))
    _auroc_curves(ranks, report["rates"], rates)
    save_figure(figure, path)


def _outline(axes: Axes, mask: NDArray[np.bool_]) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    axes.add_patch(
        Rectangle(
            (columns[0] - 0.5, rows[0] - 0.5), columns.size, rows.size, fill=False, edgecolor=OUTLINE, linewidth=1.2
        )
    )


def _heat_curve(axes: Axes, rows: Sequence[Mapping[str, Any]], rates: Sequence[float]) -> None:
    heat = [row["heat"]["planted_side"] for row in rows]
    _band(axes, rates, heat, "share", GREEN, "this detector")
    axes.axhline(heat[0]["control"], color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label="control")
    axes.axhline(rows[0]["heat"]["chance"], color=QUIET, linewidth=1.0, linestyle=(0, (1, 2)), label="chance")
    _dress(axes, "Heat inside the mark, marked images")


def _auroc_curves(axes: Axes, rows: Sequence[Mapping[str, Any]], rates: Sequence[float]) -> None:
    for name, label, colour in COPIES:
        figures = [row["auroc"][name] for row in rows]
        _band(axes, rates, figures, "value", colour, label)
        axes.plot(rates, [one["control"] for one in figures], color=colour, linewidth=1.0, linestyle=(0, (4, 2)))
    axes.plot([], [], color=QUIET, linewidth=1.0, linestyle=(0, (4, 2)), label="dashed: control, same copy")
    _dress(axes, "Image AUROC, by which test images are marked")


def _band(
    axes: Axes, rates: Sequence[float], figures: Sequence[Mapping[str, float]], name: str, colour: str, label: str
) -> None:
    axes.fill_between(
        rates, [one["low"] for one in figures], [one["high"] for one in figures], color=colour, alpha=0.18, linewidth=0
    )
    axes.plot(
        rates, [one[name] for one in figures], color=colour, linewidth=1.6, marker="o", markersize=3.5, label=label
    )


def _dress(axes: Axes, title: str) -> None:
    from matplotlib.ticker import PercentFormatter

    house_look(axes)
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of the images of that side with the mark", size=SMALL_PT, color=INK)
    axes.set_title(title, size=TEXT_PT, color=INK, loc="left")
    axes.legend(frameon=False, fontsize=SMALL_PT, labelcolor=INK, loc="best")
