"""A sheet for the eye, in var/ alone: ELPV's pictures are CC BY-NC-SA, so none of them is committed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP, SCALE, GAIN = 3, 2, 3
Pixels = NDArray[np.uint8]


def write_sheet(originals: Pixels, made: Sequence[Pixels], path: Path) -> None:
    """A line an image: the original, then each of `made` [N,1,H,W] with its difference beside it, GAIN times, grey is
    none.
    """
    columns = [originals[:, 0]]
    for one in made:
        change = one[:, 0].astype(np.int64) - originals[:, 0]
        columns += [one[:, 0], np.clip(128 + GAIN * change, 0, 255).astype(np.uint8)]
    count, height, width = originals[:, 0].shape
    sheet = np.full((count * (height + GAP) + GAP, len(columns) * (width + GAP) + GAP), 255, np.uint8)
    for column, images in enumerate(columns):
        for line, image in enumerate(images):
            top, left = GAP + line * (height + GAP), GAP + column * (width + GAP)
            sheet[top : top + height, left : left + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    large = Image.fromarray(sheet).resize((sheet.shape[1] * SCALE, sheet.shape[0] * SCALE), Image.Resampling.NEAREST)
    large.save(path)
