"""How far one has to go for a counterfactual: the share of anomalies with a valid one, against its distance.

An explainer that always succeeds may do so by replacing the image; one that stays close may fail. One curve shows both,
so explainers are compared at equal distance and not by a rate each at its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xadflow.errors import BadInput


def nearest_valid(distances: ArrayLike, is_normal: ArrayLike) -> NDArray[np.float64]:
    """Distance of each image's nearest counterfactual that the detector calls normal, [N]; inf where it has none.

    Both arguments are [N] or [N,K]: K counterfactuals an image. Raises BadInput: other shapes, a distance below 0 or
    NaN.

    >>> nearest_valid([[3.0, 1.0], [2.0, 5.0]], [[True, False], [False, False]])
    array([ 3., inf])
    """
    far, valid = np.asarray(distances, dtype=np.float64), np.asarray(is_normal, dtype=np.bool_)
    if far.ndim not in (1, 2) or far.shape != valid.shape or not (far >= 0).all():
        raise BadInput(
            "a distance >= 0 and a decision for every counterfactual",
            seen=(far.shape, valid.shape),
            next_step="give both as [N] or [N,K]",
        )
    reached = np.where(valid, far, np.inf)
    return reached if reached.ndim == 1 else np.min(reached, axis=1, initial=np.inf)


def validity_curve(nearest: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(distance, share): the share of all images with a valid counterfactual at no more than that distance.

    `nearest` [N] as :func:`nearest_valid` gives it. Distances are the different finite ones in rising order, so the
    curve is a step function that jumps at each and ends at the flip rate. Raises BadInput: no image.

    >>> validity_curve([2.0, 1.0, float("inf"), 2.0])
    (array([1., 2.]), array([0.25, 0.75]))
    """
    values = np.asarray(nearest, dtype=np.float64).ravel()
    if not values.size:
        raise BadInput("a curve needs at least one explained image", seen=0, next_step="explain an anomaly first")
    far, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return far, np.cumsum(counts) / values.size


def distance_for(nearest: ArrayLike, share: float = 0.5) -> float:
    """Smallest distance at which at least this share of the images has a valid counterfactual; inf if it is never
    reached.

    >>> distance_for([2.0, 1.0, float("inf"), 4.0]), distance_for([1.0, float("inf"), float("inf")])
    (2.0, inf)
    """
    far, reached = validity_curve(nearest)
    enough = np.flatnonzero(reached >= share - 1e-12)
    return float(far[enough[0]]) if enough.size else math.inf
