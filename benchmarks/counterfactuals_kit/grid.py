"""The picture of the page: anomalies, and what both concepts made of them. No scores: the eye is to judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.counterfactuals_kit.images import COLOUR_NAMES, CYAN, Coloured

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "counterfactuals-coloured-mnist.png"
EACH, SCALE, GAP = 3, 2, 3


def write_grid(of: Coloured, made: NDArray[np.uint8], roles: tuple[int, int], path: Path = PICTURE) -> None:
    """The first three anomalies of each colour: originals above, below them first the concept that recolours.

    `made` is uint8 [N,K,3,H,W], `roles` the two concepts in the order of the rows.
    """
    others = [number for number in range(len(COLOUR_NAMES)) if number != CYAN]
    rows = np.concatenate([np.flatnonzero(of.colours == number)[:EACH] for number in others])
    lines = [of.images[rows], *(made[rows, concept] for concept in roles)]
    side = of.images.shape[-1] + GAP
    sheet = np.full((len(lines) * side + GAP, len(rows) * side + GAP, 3), 255, np.uint8)
    for line, images in enumerate(lines):
        for column, image in enumerate(images):
            top, left = GAP + line * side, GAP + column * side
            sheet[top : top + side - GAP, left : left + side - GAP] = image.transpose(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    large = Image.fromarray(sheet).resize((sheet.shape[1] * SCALE, sheet.shape[0] * SCALE), Image.Resampling.NEAREST)
    large.save(path, optimize=True)
