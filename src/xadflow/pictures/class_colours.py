"""A map of classes in colour, and the legend that names them. Display only.

A class has its colour by its number, whatever the others are: ten strong colours, the same ten lighter (matplotlib's
tab20), and from number 20 on hues that are drawn apart by the golden ratio.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xadflow.errors import BadInput
from xadflow.pictures.tile_sheet import GAP_PX, INK, PAPER, TEXT_PX

Colour = tuple[int, int, int]

_GOLDEN = (5**0.5 - 1) / 2
_LINE_PX = TEXT_PX + GAP_PX
_SWATCH_PX = TEXT_PX


class Named(NamedTuple):
    """One line of a legend: the number of a class, its name, and what is said of it."""

    number: int
    name: str
    note: str = ""


def class_colour(number: int) -> Colour:
    """The colour of a class, each part 0 to 255."""
    from matplotlib import colormaps

    if number < 20:
        parts = colormaps["tab20"](2 * number if number < 10 else 2 * (number - 10) + 1)[:3]
    else:
        parts = colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, 0.9 if number % 2 else 0.5, 0.8 if number % 3 else 0.5)
    red, green, blue = (round(255 * float(part)) for part in parts)
    return red, green, blue


def coloured_classes(classes: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [3,H,W] of class numbers [H,W], none below 0."""
    numbers = np.unique(classes)
    colours = np.array([class_colour(int(number)) for number in numbers], dtype=np.uint8)
    picture = colours[np.searchsorted(numbers, classes)]  # (H, W, 3)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def class_legend(lines: Sequence[Named], width: int) -> NDArray[np.uint8]:
    """uint8 [3,h,width]: a swatch, the name and the note of each, in as many columns as fit.

    Raises:
        BadInput: no class to name.
    """
    if not lines:
        raise BadInput("a legend needs a class", seen=0, next_step="leave it out when nothing is shown")
    font = ImageFont.load_default(TEXT_PX)
    texts = [f"{line.name}  {line.note}" if line.note else line.name for line in lines]
    cell = _SWATCH_PX + 3 * GAP_PX + int(max(font.getlength(text) for text in texts)) + 1
    columns = max(1, min(len(lines), (width - GAP_PX) // cell))
    rows = -(-len(lines) // columns)
    picture = Image.new("RGB", (width, rows * _LINE_PX + GAP_PX), PAPER)
    pen = ImageDraw.Draw(picture)
    for place, (line, text) in enumerate(zip(lines, texts, strict=True)):
        left, top = GAP_PX + place // rows * cell, GAP_PX + place % rows * _LINE_PX
        pen.rectangle((left, top, left + _SWATCH_PX, top + _SWATCH_PX), fill=class_colour(line.number), outline=INK)
        pen.text((left + _SWATCH_PX + GAP_PX, top), text, fill=INK, font=font)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
