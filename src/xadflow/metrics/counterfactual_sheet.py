"""A grid of several counterfactuals an image, as a PNG file. Display only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xadflow.errors import BadInput
from xadflow.metrics.figures import INK, QUIET, RULE, SMALL_PT, TEXT_PT, TITLE_PT, new_figure, plain, save_figure


class CounterfactualRow(NamedTuple):
    """One line of the grid: an image, its counterfactuals with a label each, and a caption; pictures uint8 [C,H,W]."""

    original: NDArray[np.uint8]
    counterfactuals: Sequence[NDArray[np.uint8]]
    labels: Sequence[str]
    caption: str


def counterfactual_sheet(rows: Sequence[CounterfactualRow], path: Path, title: str) -> None:
    """A line an image: the original, then what every concept makes of it. Raises BadInput without any row."""
    if not rows:
        raise BadInput("a sheet of counterfactuals needs at least one row", seen=0,
                       next_step="leave it out when nothing is shown")  # fmt: skip
    columns = 1 + max(len(row.counterfactuals) for row in rows)
    cell, gap, label, margin, head = 1.4, 0.1, 0.26, 0.2, 0.78  # inches
    width = max(2 * margin + columns * cell + (columns - 1) * gap, 4.5)
    height = head + len(rows) * (cell + label) + margin
    figure = new_figure(width, height)
    figure.text(margin / width, 1 - 0.3 / height, plain(title), size=TITLE_PT, weight="bold", color=INK)
    for column in range(columns):
        name = "original" if column == 0 else f"concept {column - 1}"
        x = (margin + column * (cell + gap)) / width
        figure.text(x, 1 - (head - 0.1) / height, name, size=TEXT_PT, color=QUIET)
    for line, row in enumerate(rows):
        top = head + line * (cell + label)
        pictures = zip([row.original, *row.counterfactuals], [row.caption, *row.labels], strict=True)
        for column, (pixels, text) in enumerate(pictures):
            x = (margin + column * (cell + gap)) / width
            axes = figure.add_axes((x, (height - top - cell) / height, cell / width, cell / height))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=RULE, linewidth=0.6)
            axes.imshow(pixels.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            figure.text(x, 1 - (top + cell + 0.14) / height, plain(text), size=SMALL_PT - 2, color=INK)
    save_figure(figure, path)
