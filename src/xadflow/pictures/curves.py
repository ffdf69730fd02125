"""Curves of several explainers in one chart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from xadflow.errors import BadInput
from xadflow.metrics.validity import validity_curve
from xadflow.pictures.plots import INK, QUIET, RULE, SMALL_PT, TEXT_PT, house_look, new_figure, save_figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe & Ito


def validity_figure(nearest: Mapping[str, ArrayLike], path: Path, distance: str) -> None:
    """The curves of several explainers as a PNG; `distance` names the axis, with its unit. Raises BadInput: none."""
    if not nearest:
        raise BadInput("a figure needs at least one curve", seen=0, next_step="give the distances of an explainer")
    from matplotlib.ticker import PercentFormatter

    curves = {name: validity_curve(values) for name, values in nearest.items()}
    most = max((far[-1] for far, _ in curves.values() if far.size), default=1.0) or 1.0
    figure = new_figure(6.4, 3.9)
    axes = figure.add_axes((0.115, 0.15, 0.85, 0.78))
    house_look(axes)
    for number, (name, (far, reached)) in enumerate(curves.items()):
        images, end = np.asarray(nearest[name]).size, float(reached[-1]) if reached.size else 0.0
        axes.step(
            np.concatenate([[0.0], far, [most * 1.02]]),
            np.concatenate([[0.0], reached, [end]]),
            where="post",
            color=COLOURS[number % len(COLOURS)],
            linewidth=1.8,
            label=f"{name}: {end:.0%} of {images:,}",
        )
    axes.set_xlim(0.0, most * 1.02)
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_xlabel(distance, size=TEXT_PT, color=INK)
    axes.set_ylabel("anomalies with a normal counterfactual", size=TEXT_PT, color=INK)
    axes.legend(frameon=False, fontsize=SMALL_PT, labelcolor=QUIET, loc="lower right")
    save_figure(figure, path)
