"""Sheets for the eye. ELPV's pictures are CC BY-NC-SA: sheets of them are written to var/ and never committed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP, SCALE, GAIN = 3, 2, 3
Pixels = NDArray[np.uint8]


def write_sheet(lines: Sequence[Pixels], path: Path) -> None:
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


def write_changes(originals: Pixels, made: Sequence[Pixels], path: Path) -> None:
    """A line an image: the original, then each of `made` [N,1,H,W] with its difference beside it, GAIN times, grey is
    none.
    """
    columns = [originals]
    for one in made:
        change = one.astype(np.int64) - originals
        columns += [one, np.clip(128 + GAIN * change, 0, 255).astype(np.uint8)]
    write_sheet(list(np.stack(columns, axis=1)), path)
