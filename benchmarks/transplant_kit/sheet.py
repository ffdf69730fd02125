"""The README's picture: defects on textures, where the detector sees them, three transplants, and whose pixels they
took.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.transplant_kit.arms import Task
from benchmarks.transplant_kit.banks import bank_of
from benchmarks.transplant_kit.cells import task_of
from benchmarks.transplant_kit.detectors import explained, judge
from benchmarks.transplant_kit.sets import TEXTURES, tested_set
from xadflow.datasets.sources.textures import DEFECTS
from xadflow.explainers.transplant import TransplantExplainer
from xadflow.images import as_float
from xadflow.pictures.plots import HEAT, INK, QUIET, RULE, SMALL_PT, TEXT_PT, TITLE_PT, new_figure, save_figure

ROWS, ALTERNATIVES, SEED, JUDGE = 5, 3, 0, "padim"
CELL, GAP, LABEL, LINE, MARGIN, HEAD = 1.3, 0.09, 0.86, 0.45, 0.16, 1.1  # inches
OUTLINE, TRUTH = "#56B4E9", "#009E73"  # Okabe & Ito: the region of a transplant, the exact mask
HALF = 128
NO_OTHER = ("this donor left", "it anomalous")
MARKS = {True: "\u2713", False: "\u2717"}
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Line:
    """One image: pictures uint8 [H,W], regions bool [H,W] and words of its alternatives."""

    title: str
    original: Pixels
    mask: NDArray[np.bool_]
    heat: NDArray[np.float32]
    made: list[Pixels]
    regions: list[NDArray[np.bool_]]
    donors: list[Pixels]
    words: list[str]


def write_sheet(path: Path, rows: int = ROWS) -> None:
    """Flagged defects, textures and kinds in turn, the first of each in the order of the benchmark: none is picked."""
    by_texture = {name: _lines(name, places) for name, places in _chosen(rows).items()}
    lines = [by_texture[TEXTURES[number % len(TEXTURES)]][number // len(TEXTURES)] for number in range(rows)]
    columns = 2 + 2 * ALTERNATIVES
    width = 2 * MARGIN + LABEL + columns * CELL + (columns + 1) * GAP
    height = HEAD + len(lines) * (CELL + LINE) + MARGIN
    figure = new_figure(width, height)
    _words(
        figure,
        MARGIN,
        0.28,
        "What normal images show there: up to three transplants of each defect",
        TITLE_PT + 3,
        INK,
        "bold",
    )
    _words(
        figure,
        MARGIN,
        0.52,
        "Real textures, generated defects. Blue: the region that was replaced by what another, normal "
        "image shows there, until the detector calls the image normal.",
        TEXT_PT,
        QUIET,
    )
    _words(
        figure,
        MARGIN,
        0.69,
        "Green: the defect's exact mask, which no detector has seen. \u2713 normal, "
        "\u2717 still anomalous; the judge is another kind of detector, which explains nothing.",
        TEXT_PT,
        QUIET,
    )
    names = [
        "anomaly",
        "heatmap",
        *(f"transplant {k + 1}" for k in range(ALTERNATIVES)),
        *(f"donor {k + 1}" for k in range(ALTERNATIVES)),
    ]
    for column, name in enumerate(names):
        _words(figure, _left(column), HEAD - 0.1, name, TEXT_PT, INK, "bold")
    for number, line in enumerate(lines):
        top = HEAD + number * (CELL + LINE)
        for part, text in enumerate(line.title.split("\n")):
            _words(figure, MARGIN, top + 0.2 + 0.18 * part, text, TEXT_PT, INK, "bold" if part == 0 else "normal")
        none = [None] * (ALTERNATIVES - len(line.made))  # those that stay anomalous are left out
        pictures: list[Any] = [line.original, line.heat, *line.made, *none, *line.donors, *none]
        for column, picture in enumerate(pictures):
            if picture is None:
                for part, text in enumerate(NO_OTHER if column < 2 + ALTERNATIVES else ()):
                    _words(figure, _left(column), top + 0.2 + 0.16 * part, text, SMALL_PT, QUIET)
                continue
            axes = figure.add_axes((_left(column) / width, (height - top - CELL) / height, CELL / width, CELL / height))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color=RULE, linewidth=0.6)
            if picture.dtype == np.uint8:
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            else:
                axes.imshow(picture, cmap=HEAT, interpolation="bilinear")
                axes.contour(line.mask, levels=[0.5], colors=[TRUTH], linewidths=1.1)
            if 2 <= column < 2 + ALTERNATIVES:
                if line.regions[column - 2].all():
                    axes.spines[:].set(color=OUTLINE, linewidth=1.6)
                else:
                    axes.contour(line.regions[column - 2], levels=[0.5], colors=[OUTLINE], linewidths=1.1)
                for part, text in enumerate(line.words[column - 2].split("\n")):
                    _words(figure, _left(column), top + CELL + 0.15 + 0.14 * part, text, SMALL_PT, INK)
    save_figure(figure, path)


def _left(column: int) -> float:
    """Inches from the left; a wider gap before the transplants and before their donors."""
    return MARGIN + LABEL + column * (CELL + GAP) + GAP * (int(column >= 2) + int(column >= 2 + ALTERNATIVES)) / 2


def _words(figure: Any, left: float, top: float, text: str, size: float, colour: str, weight: str = "normal") -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, size=size, color=colour, weight=weight, va="baseline")


def _chosen(rows: int) -> dict[str, list[tuple[int, str]]]:
    """Of each texture the rows of the test set that are shown, with the kind of defect: textures in turn, kinds in
    turn.
    """
    kinds, found = list(DEFECTS), dict[str, list[tuple[int, str]]]()
    for number in range(rows):
        name = TEXTURES[number % len(TEXTURES)]
        of = [(row, _kind(name, row)) for row in task_of(name, "fcdd", SEED).rows]
        wanted, shown = (
            kinds[(number // len(TEXTURES) + number % len(TEXTURES)) % len(kinds)],
            found.setdefault(name, []),
        )
        rest = [one for one in of if one not in shown]
        shown.append(next((one for one in rest if one[1] == wanted), rest[0]))
    return found


def _kind(name: str, row: int) -> str:
    """The test set holds its normals first, then as many defects of each kind, kind by kind."""
    labels = tested_set(name).labels
    normals, each = int((labels == 0).sum()), int((labels == 1).sum()) // len(DEFECTS)
    return list(DEFECTS)[(row - normals) // each]


def _lines(name: str, places: list[tuple[int, str]]) -> list[Line]:
    tested, detector = tested_set(name), explained(name, "fcdd", SEED)
    assert tested.masks is not None
    task = Task(name, "fcdd", SEED, tuple(row for row, _ in places))
    bank = bank_of(detector, tested)
    told = TransplantExplainer(alternatives=ALTERNATIVES).with_donors(bank).explain(detector, as_float(task.originals))
    asked = judge(name, JUDGE)
    found: list[Line] = []
    for (row, kind), one in zip(places, told, strict=True):
        made = [cf.image for cf in one.counterfactuals]
        regions = [shown.image >= HALF for shown in one.images if shown.name.endswith(".region")]
        said = asked.scores(np.stack(made)) <= asked.threshold
        words = [
            f"{region.mean():.0%} replaced\ndetector {MARKS[cf.is_normal]}  judge {MARKS[bool(normal)]}"
            for region, cf, normal in zip(regions, one.counterfactuals, said, strict=True)
        ]
        donors = [bank.images[bank.ids.index(cf.donor_id or "")].numpy()[0] for cf in one.counterfactuals]
        assert one.heatmap is not None
        title = f"{name.removeprefix('textures-')}\n{kind.removeprefix('generated-')}"
        found.append(
            Line(
                title,
                task.originals.numpy()[len(found), 0],
                tested.masks[row],
                one.heatmap,
                [image[0] for image in made],
                regions,
                donors,
                words,
            )
        )
    return found
