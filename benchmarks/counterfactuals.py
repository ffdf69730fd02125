"""Counterfactuals of anomaly detectors on Coloured-MNIST: `python -m benchmarks.counterfactuals [--quick] [--only
...]`.

Normal is cyan with any digit, or a 1 in any colour (arXiv 2402.14469), so there are two ways from an anomaly to a
normal image: another colour, or another digit. A generator is trained for each detector and has to find both. Neither
it nor the detector sees a label of an anomaly: both learn against recoloured train digits (training.py says why that is
nearly supervision). Explained are the first 1500 anomalies among MNIST's 10,000 test digits; the generator's settings
were tried on the 5001st to the 6000th, the detector's on all test digits.

Each cell (detector, variant, seed) is kept in var/bench-counterfactuals/ and is neither trained nor measured twice
while settings and code are the same; a training that is stopped goes on. Cells that were not run are listed as missing.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.baselines import AUTOENCODER, BASELINES
from benchmarks.counterfactuals_kit.controls import RELABELLED_IMAGES, anomalous_by_both, control_figures, shares_normal
from benchmarks.counterfactuals_kit.grid import write_grid
from benchmarks.counterfactuals_kit.measures import (
    EXPLAINED,
    Judged,
    anomalies,
    detector_figures,
    generator_figures,
    made_figures,
    reader_figures,
    readers,
)
from benchmarks.counterfactuals_kit.training import (
    QUICK_STEPS,
    STUDY,
    Cell,
    described,
    generator,
    generator_folder,
    second_detector,
)
from benchmarks.kit.rows import summed, summed_rows
from benchmarks.study import read, write
from xadflow.metrics.stability import seed_difference

BASELINE_IMAGES = 256
BARE = ("baselines", "controls")  # variants that are no row of the table
PUBLISHED = {
    "normality": "55.6 +- 1.5",
    "fid_n": "56 +- 12.4",
    "concept_accuracy": "97.2",
}  # BCE; another exposure and FID net
FIGURES = (
    "normality second_normality fid_n kid_n normal_by_definition strict loose l1_mean normals_l1_max concept_accuracy "
    "substitution_auroc apart cosine perceptual noise_pixels noise_probability"
).split()


def main() -> None:
    """Train and measure what is missing, then write benchmarks/results/counterfactuals.json and the picture."""
    quick = f"bce, seed 0, {QUICK_STEPS} steps, its baselines and controls"
    given = STUDY.start(__doc__, quick, "only", "minutes", "jobs")
    cells = wanted_cells(given.quick)
    torch.set_num_threads(1)
    readers(), second_detector()  # trained once, read by all
    found = STUDY.measure(cells, _path, _measured, given.jobs or os.cpu_count() or 1)
    rows = summed_rows(
        {(f"{cell.method} {cell.variant}", cell): one for cell, one in found.items() if cell.variant not in BARE},
        FIGURES,
    )
    for name, apart in _between_seeds(found).items():
        rows[name]["seed_difference"] = apart
    bare = [one["figures"] for cell, one in found.items() if cell.variant == "baselines"]
    figures = {
        "settings": described() | {"autoencoder": AUTOENCODER},
        "images": EXPLAINED,
        "baseline_images": BASELINE_IMAGES,
        "readers": reader_figures(),
        "rows": rows,
        "baselines": {name: summed(own) for one in bare for name, own in one.items()},
        "controls": _controls(found),
        "published_bce": PUBLISHED,
        "missing": [str(cell) for cell in cells if cell not in found],
        "commits": sorted({one["commit"] for one in found.values()}),
    }
    STUDY.write(figures, sorted({cell.seed for cell in cells}), float(sum(one["seconds"] for one in found.values())))
    shown = [cell for cell in found if cell.variant == "full"]
    if shown and not given.quick:
        write_grid(anomalies(), _made(shown[0]), found[shown[0]]["figures"]["roles"])


def wanted_cells(quick: bool) -> list[Cell]:
    """All cells, what matters most first."""
    bare = [Cell("bce", "baselines", 0), Cell("bce", "controls", 0, QUICK_STEPS)]
    if quick:
        return [Cell("bce", "full", 0, QUICK_STEPS), *bare]
    full = [Cell(method, "full", seed) for method in ("bce", "hsc") for seed in range(3)]
    ablations = [Cell("bce", variant, 0) for variant in ("no-hinge", "no-discriminator", "cycle")]
    return [*full, *ablations, *bare]


def _path(cell: Cell) -> Path:
    """The figures of a cell."""
    stem = f"figures-{cell.method}-{cell.variant}-{cell.seed}.json"
    plain = Cell(cell.method, "full" if cell.variant in BARE else cell.variant, cell.seed, cell.steps)
    return STUDY.path(stem, cell=asdict(cell), generator=generator_folder(plain).name)


def _made(cell: Cell) -> NDArray[np.uint8]:
    """Its counterfactuals."""
    found: NDArray[np.uint8] = read(_path(cell).with_suffix(".npz"))["made"]
    return found


def _measured(cell: Cell) -> dict[str, Any]:
    judged = Judged(cell.method, cell.seed)
    if cell.variant == "baselines":
        of = anomalies(BASELINE_IMAGES)
        return {name: made_figures(judged, of, make(judged, of)) for name, make in BASELINES.items()}
    if cell.variant == "controls":
        return control_figures(cell)
    figures, made = generator_figures(judged, generator(cell))
    write(_path(cell).with_suffix(".npz"), {"made": made})
    return figures | {"detector": detector_figures(judged)}


def _controls(found: dict[Cell, Any]) -> dict[str, Any]:
    """Of the control cell, beside it what the first generator's counterfactuals are by both definitions; empty without
    one.
    """
    kept = {cell: one["figures"] for cell, one in found.items() if cell.variant == "controls"}
    for cell, figures in kept.items():
        plain = next(
            (one for one in found if (one.method, one.variant, one.seed) == (cell.method, "full", cell.seed)), None
        )
        if plain is None:
            return figures | {"explained": None}
        rows = anomalous_by_both(anomalies())[:RELABELLED_IMAGES]
        made = _made(plain)[rows]
        return figures | {
            "explained": {
                "images": len(rows),
                "steps": plain.steps,
                "share_normal": shares_normal(readers().read(made)),
            }
        }
    return {}


def _between_seeds(found: dict[Cell, Any]) -> dict[str, float]:
    """Mean difference between the counterfactuals of any two seeds of a row; of rows with several."""
    made: dict[str, list[NDArray[np.uint8]]] = {}
    for cell in found:
        if cell.variant not in BARE:
            made.setdefault(f"{cell.method} {cell.variant}", []).append(_made(cell))
    return {
        name: mean(seed_difference(*pair) for pair in combinations(each, 2))
        for name, each in made.items()
        if len(each) > 1
    }


if __name__ == "__main__":
    main()
