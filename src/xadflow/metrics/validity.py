"""How far one has to go for a counterfactual: the share of anomalies with a valid one, against its distance.

An explainer that always succeeds may do so by replacing the image; one that stays close may fail. One curve shows both,
so explainers are compared at equal distance and not by a rate each at its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xadflow.errors import BadInput
from xadflow.metrics.figures import INK, QUIET, RULE, SMALL_PT, TEXT_PT, house_look, new_figure, save_figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe & Ito


def nearest_valid(distances: ArrayLike, is_normal: ArrayLike) -> NDArray[np.float64]:
    """Distance of each image's nearest counterfactual that the detector calls normal, [N]; inf where it has none.

    Both arguments are [N] or [N,K]: K counterfactuals an image. Raises BadInput: other shapes, a distance below 0 or NaN.

    >>> nearest_valid([[3.0, 1.0], [2.0, 5.0]], [[True, False], [False, False]])
    array([ 3., inf])
    """
    far, valid = np.asarray(distances, dtype=np.float64), np.asarray(is_normal, dtype=np.bool_)
    if far.ndim not in (1, 2) or far.shape != valid.shape or not (far >= 0).all():
        raise BadInput("a distance >= 0 and a decision for every counterfactual", seen=(far.shape, valid.shape),
                       next_step="give both as [N] or [N,K]")  # fmt: skip
    reached = np.where(valid, far, np.inf)
    return reached if reached.ndim == 1 else np.min(reached, axis=1, initial=np.inf)


def validity_curve(nearest: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(distance, share): the share of all images with a valid counterfactual at no more than that distance.

    `nearest` [N] as :func:`nearest_valid` gives it. Distances are the different finite ones in rising order, so the curve
    is a step function that jumps at each and ends at the flip rate. Raises BadInput: no image.

    >>> validity_curve([2.0, 1.0, float("inf"), 2.0])
    (array([1., 2.]), array([0.25, 0.75]))
    """
    values = np.asarray(nearest, dtype=np.float64).ravel()
    if not values.size:
        raise BadInput("a curve needs at least one explained image", seen=0, next_step="explain an anomaly first")
    far, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return far, np.cumsum(counts) / values.size


def distance_for(nearest: ArrayLike, share: float = 0.5) -> float:
    """Smallest distance at which at least this share of the images has a valid counterfactual; inf if it is never reached.

    >>> distance_for([2.0, 1.0, float("inf"), 4.0]), distance_for([1.0, float("inf"), float("inf")])
    (2.0, inf)
    """
    far, reached = validity_curve(nearest)
    enough = np.flatnonzero(reached >= share - 1e-12)
    return float(far[enough[0]]) if enough.size else math.inf


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
        axes.step(np.concatenate([[0.0], far, [most * 1.02]]), np.concatenate([[0.0], reached, [end]]), where="post",
                  color=_COLOURS[number % len(_COLOURS)], linewidth=1.8, label=f"{name}: {end:.0%} of {images:,}")  # fmt: skip
    axes.set_xlim(0.0, most * 1.02)
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_xlabel(distance, size=TEXT_PT, color=INK)
    axes.set_ylabel("anomalies with a normal counterfactual", size=TEXT_PT, color=INK)
    axes.legend(frameon=False, fontsize=SMALL_PT, labelcolor=QUIET, loc="lower right")
    save_figure(figure, path)
