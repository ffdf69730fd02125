"""How large the edits of counterfactuals are, and how far those of one image are from each other.

Images are uint8 [N,C,H,W], counterfactuals uint8 [N,K,C,H,W]. Distances are means over all values of an image on the
[-1,1] scale, as docs/explanation/methods.md, "Diverse counterfactuals" states them: twice those on the [0,1] scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput

Pixels = NDArray[np.uint8]
HALF_RANGE = 127.5


def edit_sizes(originals: Pixels, made: Pixels) -> NDArray[np.float64]:
    """Mean |x' - x| of every counterfactual, [N,K]. Raises BadInput.

    >>> edit_sizes(np.zeros((1, 1, 1, 2), np.uint8), np.array([[[[[0, 255]]]]], np.uint8))
    array([[1.]])
    """
    return np.asarray(np.abs(_edits(originals, made)).mean(axis=2))


def pairwise_distances(originals: Pixels, made: Pixels) -> NDArray[np.float64]:
    """Mean |x'_i - x'_j| of every pair of an image's counterfactuals, [N, K(K-1)/2]. Raises BadInput, for one alone
    too.
    """
    first, second = _pairs(made.shape[1])
    edits = _edits(originals, made)
    return np.asarray(np.abs(edits[:, first] - edits[:, second]).mean(axis=2))


def edit_cosines(originals: Pixels, made: Pixels) -> NDArray[np.float64]:
    """Cosine of the edits of every pair of an image's counterfactuals, [N, K(K-1)/2]; NaN where one changed nothing.

    Raises BadInput, for one counterfactual alone too.
    """
    first, second = _pairs(made.shape[1])
    edits = _edits(originals, made)
    norms = np.linalg.norm(edits, axis=2)
    lengths = norms[:, first] * norms[:, second]
    products = (edits[:, first] * edits[:, second]).sum(axis=2)
    return np.asarray(np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1.0), np.nan))


def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if count < 2:
        raise BadInput(
            "a pair needs two counterfactuals of an image", seen=count, next_step="ask for concepts: 2 or more"
        )
    return np.triu_indices(count, 1)


def _edits(originals: Pixels, made: Pixels) -> NDArray[np.float64]:
    """x' - x, [N,K,C*H*W]."""
    if (
        originals.dtype != np.uint8
        or made.dtype != np.uint8
        or made.ndim != 5
        or originals.shape != (made.shape[0], *made.shape[2:])
    ):
        raise BadInput(
            "edits are between uint8 [N,C,H,W] and uint8 [N,K,C,H,W]",
            seen=[(str(each.dtype), each.shape) for each in (originals, made)],
            next_step="give every image its counterfactuals",
        )
    return np.asarray((made.astype(np.float64) - originals[:, None]).reshape(*made.shape[:2], -1) / HALF_RANGE)
