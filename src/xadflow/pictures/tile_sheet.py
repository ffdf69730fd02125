"""A sheet of labelled pictures and maps as one 8-bit image, small enough for a row of the evidence. Display only.

Drawn by Pillow with the font it brings along, so that the same values give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xadflow.errors import BadInput
from xadflow.images import to_picture

SMALLEST_PX = 128  # side a tile is enlarged to, by whole factors
TEXT_PX, GAP_PX = 13, 6
INK, PAPER, QUIET = (27, 31, 36), (255, 255, 255), (91, 100, 112)


class Tile(NamedTuple):
    """A picture uint8 [C,H,W] shown as it is, or a map float [H,W] in inferno between its extremes; name above, note
    below.

    With `limits` a map is shown between them, so that tiles can be compared.
    """

    name: str
    picture: NDArray[Any]
    note: str = ""
    limits: tuple[float, float] | None = None


def tile_sheet(tiles: Sequence[Tile], columns: int) -> NDArray[np.uint8]:
    """uint8 [3,H,W]: the tiles row by row. Raises BadInput without any, or where they differ in size."""
    sizes = {tile.picture.shape[-2:] for tile in tiles}
    if len(sizes) != 1 or columns < 1:
        raise BadInput(
            "a sheet needs tiles of one size", seen=sorted(sizes), next_step="leave it out when nothing is shown"
        )
    ((height, width),) = sizes
    factor = max(1, -(-SMALLEST_PX // max(height, width)))
    high, wide = height * factor, width * factor
    line = TEXT_PX + 3
    rows = -(-len(tiles) // columns)
    above, below = (line * any(texts) for texts in ([tile.name for tile in tiles], [tile.note for tile in tiles]))
    step_y, step_x = high + above + below + GAP_PX, wide + GAP_PX
    sheet = Image.new("RGB", (columns * step_x + GAP_PX, rows * step_y + GAP_PX), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for number, tile in enumerate(tiles):
        left, top = GAP_PX + number % columns * step_x, GAP_PX + number // columns * step_y
        shown = Image.fromarray(_coloured(tile)).resize((wide, high), Image.Resampling.NEAREST)
        sheet.paste(shown, (left, top + above))
        pen.text((left, top), _fitting(tile.name, font, wide), fill=INK, font=font)
        pen.text((left, top + above + high + 1), _fitting(tile.note, font, wide), fill=QUIET, font=font)
    return np.ascontiguousarray(np.asarray(sheet).transpose(2, 0, 1))


def _coloured(tile: Tile) -> NDArray[np.uint8]:
    """[H,W,3]."""
    if tile.picture.ndim == 3:
        return np.ascontiguousarray(np.broadcast_to(tile.picture.transpose(1, 2, 0), (*tile.picture.shape[1:], 3)))
    from matplotlib import colormaps

    low, high = tile.limits or (float(tile.picture.min()), float(tile.picture.max()))
    share = np.clip((tile.picture - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(tile.picture)
    return to_picture(np.asarray(colormaps["inferno"](share))[..., :3])


def _fitting(text: str, font: Any, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
