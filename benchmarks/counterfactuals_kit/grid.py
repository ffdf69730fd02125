"""The picture of the page: anomalies, and what both concepts made of them. No scores: the eye is to judge."""

from __future__ import annotations

from collections.abc import Sequence
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
    write_sheet([of.images[rows], *(made[rows, concept] for concept in roles)], path)


def write_sheet(lines: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Lines of as many images each, uint8 [M,C,H,W], grey or coloured."""
    high, wide = (size + GAP for size in lines[0].shape[-2:])
    sheet = np.full((len(lines) * high + GAP, len(lines[0]) * wide + GAP, 3), 255, np.uint8)
    for line, images in enumerate(lines):
        for column, image in enumerate(images):
            top, left = GAP + line * high, GAP + column * wide
            sheet[top : top + high - GAP, left : left + wide - GAP] = image.transpose(1, 2, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    large = Image.fromarray(sheet).resize((sheet.shape[1] * SCALE, sheet.shape[0] * SCALE), Image.Resampling.NEAREST)
    large.save(path, optimize=True)
