"""A picture of transfer against area: how much of an image has to be replaced for another detector to agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from xadflow.pictures.plots import INK, QUIET, SMALL_PT, TEXT_PT, TITLE_PT, house_look, new_figure, save_figure

CURVE_PICTURE = "transplant-curve.png"
JUDGES = {
    "transfer padim": ("PaDiM", "#0072B2"),
    "transfer network": ("network", "#D55E00"),
    "transfer network-contrast": ("network without brightness", "#009E73"),
}


def has_curve(figures: Mapping[str, Any]) -> bool:
    """Whether a block has more than two points."""
    return any(len(group["curve"]) > 2 for group in figures["groups"].values())


def write_curve(figures: Mapping[str, Any], path: Path) -> None:
    """One line a judge, of the first block that has a curve; bars are 95 % intervals, the last point is
    nearest normal.
    """
    title, group = next((title, one) for title, one in figures["groups"].items() if len(one["curve"]) > 2)
    points = group["curve"]
    areas = [one["region"]["value"] for one in points]
    figure = new_figure(7.4, 4.2)
    axes = figure.add_axes((0.09, 0.13, 0.87, 0.68))
    house_look(axes)
    for name, (label, colour) in JUDGES.items():
        values = [one[name]["value"] for one in points]
        reach = [
            [value - one[name]["low"] for value, one in zip(values, points, strict=True)],
            [one[name]["high"] - value for value, one in zip(values, points, strict=True)],
        ]
        axes.errorbar(
            areas, values, yerr=reach, color=colour, marker="o", markersize=4, linewidth=1.4, capsize=2, label=label
        )
    for number, (area, one) in enumerate(zip(areas, points, strict=True)):
        last, above = one["point"] == "nearest normal", 4 + 10 * (number % 2)  # neighbours at two heights
        axes.annotate(
            one["point"].removeprefix("target "),
            (area, 0.0),
            xytext=(-2 if last else 0, above),
            size=SMALL_PT,
            textcoords="offset points",
            ha="right" if last else "center",
            color=QUIET,
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("median share of the image that is replaced (numbers: target_share)", size=TEXT_PT, color=INK)
    axes.set_ylabel("called normal by a judge", size=TEXT_PT, color=INK)
    axes.legend(frameon=False, fontsize=TEXT_PT, labelcolor=INK, loc="lower right", bbox_to_anchor=(1.0, 0.08))
    figure.text(
        0.09, 0.93, "What another detector says, by how much was replaced", size=TITLE_PT, weight="bold", color=INK
    )
    figure.text(0.09, 0.87, f"{title}; mean of all alternatives", size=SMALL_PT, color=QUIET)
    save_figure(figure, path)
