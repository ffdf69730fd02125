"""A grid of several counterfactuals an image, as a PNG file. Display only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput
from xadflow.pictures.plots import INK, QUIET, RULE, SMALL_PT, TEXT_PT, TITLE_PT, new_figure, plain, save_figure


class CounterfactualRow(NamedTuple):
    """One line of the grid: an image, its counterfactuals with a label each, and a caption; pictures uint8 [C,H,W]."""

    original: NDArray[np.uint8]
    counterfactuals: Sequence[NDArray[np.uint8]]
    labels: Sequence[str]
    caption: str


def counterfactual_sheet(rows: Sequence[CounterfactualRow], path: Path, title: str, *, changes: bool = False) -> None:
    """A line an image: the original, then what every concept makes of it, and with `changes` what each changed.

    Grey is no change; a change of a quarter of the range is black or white. Raises BadInput without any row.
    """
    if not rows:
        raise BadInput(
            "a sheet of counterfactuals needs at least one row", seen=0, next_step="leave it out when nothing is shown"
        )
    concepts = max(len(row.counterfactuals) for row in rows)
    columns = 1 + concepts * (2 if changes else 1)
    cell, gap, label, margin, head = 1.4, 0.1, 0.26, 0.2, 0.78  # inches
    width = max(2 * margin + columns * cell + (columns - 1) * gap, 4.5)
    height = head + len(rows) * (cell + label) + margin
    figure = new_figure(width, height)
    figure.text(margin / width, 1 - 0.3 / height, plain(title), size=TITLE_PT, weight="bold", color=INK)
    names = ["original", *(f"concept {k}" for k in range(concepts)), *(f"change {k}" for k in range(concepts))]
    for column, name in enumerate(names[:columns]):
        x = (margin + column * (cell + gap)) / width
        figure.text(x, 1 - (head - 0.1) / height, name, size=TEXT_PT, color=QUIET)
    for line, row in enumerate(rows):
        top = head + line * (cell + label)
        shown = [_change(row.original, one) for one in row.counterfactuals] if changes else []
        texts = [row.caption, *row.labels, *("" for _ in shown)]
        for column, (pixels, text) in enumerate(zip([row.original, *row.counterfactuals, *shown], texts, strict=True)):
            x = (margin + column * (cell + gap)) / width
            axes = figure.add_axes((x, (height - top - cell) / height, cell / width, cell / height))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=RULE, linewidth=0.6)
            axes.imshow(pixels.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            figure.text(x, 1 - (top + cell + 0.14) / height, plain(text), size=SMALL_PT - 2, color=INK)
    save_figure(figure, path)


def _change(original: NDArray[np.uint8], made: NDArray[np.uint8]) -> NDArray[np.uint8]:
    change: NDArray[np.int16] = 128 + 2 * (made.astype(np.int16) - original)
    return change.clip(0, 255).astype(np.uint8)
