"""The picture of the page: anomalies, and what both concepts made of them. No scores: the eye is to judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.images import COLOUR_NAMES, CYAN, Coloured
from benchmarks.kit.sheets import write_sheet

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "counterfactuals-coloured-mnist.png"
EACH = 3


def write_grid(of: Coloured, made: NDArray[np.uint8], roles: tuple[int, int], path: Path = PICTURE) -> None:
    """The first three anomalies of each colour: originals above, below them first the concept that recolours.

    `made` is uint8 [N,K,3,H,W], `roles` the two concepts in the order of the rows.
    """
    others = [number for number in range(len(COLOUR_NAMES)) if number != CYAN]
    rows = np.concatenate([np.flatnonzero(of.colours == number)[:EACH] for number in others])
    write_sheet([of.images[rows], *(made[rows, concept] for concept in roles)], path)
