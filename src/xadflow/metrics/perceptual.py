"""How differently two images look to a network: cosines of its features, place by place.

The idea of LPIPS (Zhang et al., CVPR 2018) without its learnt weights and without its networks: which network and which
layers are stated by who measures. **Not comparable with published LPIPS.**
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput

Layers = Sequence[NDArray[np.floating]]


def perceptual_distances(first: Layers, second: Layers) -> NDArray[np.float64]:
    """Mean over layers of the mean over places of 1 - cos(f, f'), f and f' the channels of both images at a place; [N].

    Args:
        first: features of N images, one float array [N,C,H,W] for each layer.
        second: the same layers of the images that they are compared with.

    A place where nothing answers to either image is no difference; where something does to one of them alone, it is 1.
    So the distance is 0 for equal images, symmetric, and at most 2 (1 for features that are never negative).

    Raises:
        BadInput: no layers, others for the second images, or values that are not finite.

    >>> perceptual_distances([np.array([[[[1.0]], [[0.0]]]])], [np.array([[[[1.0]], [[1.0]]]])]).round(4)
    array([0.2929])
    """
    if (
        not first
        or [one.shape for one in first] != [other.shape for other in second]
        or any(one.ndim != 4 or one.shape[0] != first[0].shape[0] or 0 in one.shape[1:] for one in first)
    ):
        raise BadInput(
            "features are [N,C,H,W] of the same layers for both images",
            seen=([one.shape for one in first], [other.shape for other in second]),
            next_step="take both from the same network",
        )
    return np.asarray(np.mean([_of_layer(one, other) for one, other in zip(first, second, strict=True)], axis=0))


def _of_layer(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    one, other = first.astype(np.float64), second.astype(np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise BadInput(
            "a feature is not finite", seen="NaN or infinity", next_step="look at the network that gave them"
        )
    # |f/|f| - f'/|f'||^2 / 2 is 1 - cos, and exactly 0 for equal images, which a product of rounded lengths is not
    directions = [
        np.divide(values, length, out=np.zeros_like(values), where=length > 0)
        for values in (one, other)
        for length in [np.linalg.norm(values, axis=1, keepdims=True)]
    ]
    halves = np.square(directions[0] - directions[1]).sum(axis=1) / 2.0  # (N, H, W)
    alone = (directions[0] != 0).any(axis=1) ^ (directions[1] != 0).any(axis=1)
    return np.asarray(np.where(alone, 1.0, halves).mean(axis=(1, 2)))
