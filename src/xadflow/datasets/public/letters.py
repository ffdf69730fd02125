"""Letters in the fonts that come with Matplotlib: outliers for digits (EMNIST's letters are in no package).

White strokes on black, as in MNIST; letters that look like digits (I, l, O, o, S, s, Z, z, B, q, g, b) are left out.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xadflow.errors import DataUnavailable

LETTERS = "ACDEFGHJKLMNPQRTUVWXYacdefhijkmnprtuvwxy"
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmmi10",
    "cmtt10",
)
_DRAWN_PX = 84  # letters are drawn three times as large and brought down, so that their edges are soft


def letters(count: int, side_px: int, seed: int) -> NDArray[np.uint8]:
    """`count` pictures uint8 [N,side,side] of one letter each: random font, size, slant, turn and place.

    Raises:
        DataUnavailable: Matplotlib's fonts are not installed.
    """
    fonts = [ImageFont.truetype(str(_font(name)), size) for name in FONTS for size in (54, 66, 78)]
    rng = np.random.default_rng(seed)
    found = np.empty((count, side_px, side_px), np.uint8)
    for number in range(count):
        font = fonts[int(rng.integers(len(fonts)))]
        letter = LETTERS[int(rng.integers(len(LETTERS)))]
        picture = Image.new("L", (_DRAWN_PX, _DRAWN_PX))
        middle = (_DRAWN_PX / 2, _DRAWN_PX / 2)
        ImageDraw.Draw(picture).text(
            middle, letter, fill=255, font=font, anchor="mm", stroke_width=int(rng.integers(0, 4))
        )
        picture = picture.transform(picture.size, Image.Transform.AFFINE, _moved(rng), Image.Resampling.BILINEAR)
        found[number] = np.asarray(picture.resize((side_px, side_px), Image.Resampling.BILINEAR), dtype=np.uint8)
    return found


def _moved(rng: np.random.Generator) -> tuple[float, ...]:
    """An affine map about the middle: turned up to 25 degrees, slanted, stretched, shifted up to a fourteenth."""
    turn, slant = rng.uniform(-0.44, 0.44), rng.uniform(-0.35, 0.35)
    stretch = np.exp(rng.uniform(-0.2, 0.2, 2))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array(
        [[1.0, slant], [0.0, 1.0]]
    )
    matrix = matrix * stretch
    middle = np.full(2, _DRAWN_PX / 2)
    shift = middle - matrix @ (middle + rng.uniform(-1, 1, 2) * _DRAWN_PX / 14)
    return (*matrix[0].tolist(), float(shift[0]), *matrix[1].tolist(), float(shift[1]))


def _font(name: str) -> Path:
    spec = find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataUnavailable(
            "the fonts are not installed", seen=f"no {name}.ttf of matplotlib", next_step="run `make setup`"
        )
    return path
