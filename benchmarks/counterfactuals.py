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

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.baselines import AUTOENCODER, BASELINES
from benchmarks.counterfactuals_kit.controls import RELABELLED_IMAGES, anomalous_by_both, control_figures, shares_normal
from benchmarks.counterfactuals_kit.grid import write_grid
from benchmarks.counterfactuals_kit.measures import (
    EXPLAINED,
    MEASURES,
    Judged,
    anomalies,
    detector_figures,
    generator_figures,
    kept_npz,
    made_figures,
    reader_figures,
    readers,
)
from benchmarks.counterfactuals_kit.running import run_cells
from benchmarks.counterfactuals_kit.training import (
    QUICK_STEPS,
    Cell,
    described,
    detector_folder,
    explained,
    generator,
    generator_folder,
    place,
    second_detector,
)
from benchmarks.results import write_results
from xadflow.digests import sha256_json
from xadflow.lineage import code_digest
from xadflow.metrics.stability import seed_difference
from xadflow.settings import Home

BASELINE_IMAGES = 256
METRICS = ("concept_accuracy", "edits", "factors", "normality", "perceptual", "ranks", "realism", "stability")
BARE = ("baselines", "controls")  # variants that are no row of the table
CODE = (*(f"metrics/{name}.py" for name in METRICS), "explainers/diverse/explainer.py")
SEARCHES = (*CODE, *(f"explainers/{name}.py" for name in ("sparse", "frank_wolfe", "oracle")))
PUBLISHED = {
    "normality": "55.6 +- 1.5",
    "fid_n": "56 +- 12.4",
    "concept_accuracy": "97.2",
}  # BCE; another exposure and FID net
FIGURES = (
    "normality",
    "second_normality",
    "fid_n",
    "kid_n",
    "normal_by_definition",
    "strict",
    "loose",
    "l1_mean",
    "normals_l1_max",
    "concept_accuracy",
    "substitution_auroc",
    "apart",
    "cosine",
    "perceptual",
    "noise_pixels",
    "noise_probability",
)


def main() -> None:
    """Train and measure what is missing, then write benchmarks/results/counterfactuals.json and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"bce, seed 0, {QUICK_STEPS} steps, its baselines and controls"
    )
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="WORD", help="run only these detectors, variants or seeds"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after so many minutes")
    parser.add_argument("--jobs", type=int, default=0, help="cells at once; by default one for each core")
    arguments = parser.parse_args()
    home, cells = Home.find(), wanted_cells(arguments.quick)
    chosen = [cell for cell in cells if _chosen(cell, arguments.only) and not _kept(home, cell).is_file()]
    _run(home, chosen, arguments.jobs, time.monotonic() + 60 * arguments.minutes)
    found = {cell: json.loads(kept.read_text()) for cell in cells if (kept := _kept(home, cell)).is_file()}
    rows, baselines, controls = _rows(cells, found), _baselines(found), _controls(home, found)
    for name, apart in _between_seeds(home, found).items():
        rows[name]["seed_difference"] = apart
    figures = {
        "settings": described() | {"autoencoder": AUTOENCODER},
        "images": EXPLAINED,
        "baseline_images": BASELINE_IMAGES,
        "readers": reader_figures(home),
        "rows": rows,
        "baselines": baselines,
        "controls": controls,
        "published_bce": PUBLISHED,
        "missing": [str(cell) for cell in cells if cell not in found],
        "commits": sorted({one["commit"] for one in found.values()}),
    }
    _show(rows, baselines)
    write_results(
        "counterfactuals",
        figures,
        seeds=sorted({cell.seed for cell in cells}),
        seconds=float(sum(one["seconds"] for one in found.values())),
        quick=arguments.quick,
    )
    shown = [cell for cell in found if cell.variant == "full"]
    if shown and not arguments.quick:
        first = shown[0]
        write_grid(anomalies(), kept_npz(_made(home, first))["made"], found[first]["figures"]["roles"])


def wanted_cells(quick: bool) -> list[Cell]:
    """All cells, what matters most first."""
    bare = [Cell("bce", "baselines", 0), Cell("bce", "controls", 0, QUICK_STEPS)]
    if quick:
        return [Cell("bce", "full", 0, QUICK_STEPS), *bare]
    full = [Cell(method, "full", seed) for method in ("bce", "hsc") for seed in range(3)]
    ablations = [Cell("bce", variant, 0) for variant in ("no-hinge", "no-discriminator", "cycle")]
    return [*full, *ablations, *bare]


def _chosen(cell: Cell, only: Sequence[str]) -> bool:
    asked = [set(only) & set(known) for known in zip(*map(_words, wanted_cells(False)), strict=True)]
    return all(not some or own in some for own, some in zip(_words(cell), asked, strict=True))


def _words(cell: Cell) -> tuple[str, str, str]:
    return cell.method, cell.variant, str(cell.seed)


def _kept(home: Home, cell: Cell) -> Path:
    """The figures of a cell."""
    plain = Cell(cell.method, "full", cell.seed, cell.steps) if cell.variant in BARE else cell
    trained = (
        detector_folder(home, cell.method, cell.seed) if cell.variant == "baselines" else generator_folder(home, plain)
    )
    code = code_digest(*(SEARCHES if cell.variant in BARE else CODE))
    key = sha256_json({**asdict(cell), "trained": trained.name, "measures": MEASURES, "code": code})[:12]
    return place(home) / f"figures-{cell.method}-{cell.variant}-{cell.seed}-{key}.json"


def _made(home: Home, cell: Cell) -> Path:
    """Its counterfactuals."""
    return _kept(home, cell).with_suffix(".npz")


def _run(home: Home, cells: Sequence[Cell], jobs: int, until: float) -> None:
    """Cells in the order given, several at once in processes of one thread each."""
    if not cells:
        return
    torch.set_num_threads(1)
    readers(home), second_detector(home)  # trained once, read by all
    run_cells(cells, _measured, jobs, until)


def _measured(cell: Cell, until: float, at: str) -> float | None:
    """Seconds of one cell, whose figures are written; None when it is too late to start."""
    started = time.monotonic()
    if started > until:
        return None
    home = Home.find()
    kept, judged = _kept(home, cell), Judged(home, cell.method, cell.seed)
    figures: dict[str, Any]
    if cell.variant == "baselines":
        explained(home, cell.method, cell.seed)
        of = anomalies(BASELINE_IMAGES)
        figures = {name: made_figures(judged, of, make(judged, of)) for name, make in BASELINES.items()}
    elif cell.variant == "controls":
        figures = control_figures(home, cell)
    else:
        explainer = generator(home, cell)
        figures, made = generator_figures(judged, explainer)
        figures["detector"] = detector_figures(judged)
        np.savez_compressed(_made(home, cell), made=made)
    seconds = time.monotonic() - started
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps({"figures": figures, "seconds": seconds, "commit": at}, allow_nan=False))
    partial.replace(kept)
    return seconds


def _rows(cells: Sequence[Cell], found: dict[Cell, Any]) -> dict[str, Any]:
    """Rows by detector and variant: each seed's figures, and mean and spread of those that are summed up."""
    rows: dict[str, Any] = {}
    for cell in cells:
        if cell in found and cell.variant not in BARE:
            row = rows.setdefault(f"{cell.method} {cell.variant}", {"seeds": {}, "steps": cell.steps})
            row["seeds"][str(cell.seed)] = _summed(found[cell]["figures"])
    for row in rows.values():
        each = list(row["seeds"].values())
        row["mean"] = {name: mean(one[name] for one in each) for name in FIGURES}
        row["sd"] = {name: stdev(one[name] for one in each) for name in FIGURES} if len(each) > 1 else None
    return rows


def _baselines(found: dict[Cell, Any]) -> dict[str, Any]:
    kept = [one["figures"] for cell, one in found.items() if cell.variant == "baselines"]
    return {name: _summed(figures) for one in kept for name, figures in one.items()}


def _controls(home: Home, found: dict[Cell, Any]) -> dict[str, Any]:
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
        made = kept_npz(_made(home, plain))["made"][rows]
        return figures | {
            "explained": {
                "images": len(rows),
                "steps": plain.steps,
                "share_normal": shares_normal(readers(home).read(made)),
            }
        }
    return {}


def _between_seeds(home: Home, found: dict[Cell, Any]) -> dict[str, float]:
    """Mean difference between the counterfactuals of any two seeds of a row; of rows with several."""
    made: dict[str, list[NDArray[np.uint8]]] = {}
    for cell in found:
        if cell.variant not in BARE:
            made.setdefault(f"{cell.method} {cell.variant}", []).append(kept_npz(_made(home, cell))["made"])
    return {
        name: mean(seed_difference(*pair) for pair in combinations(each, 2))
        for name, each in made.items()
        if len(each) > 1
    }


def _summed(figures: dict[str, Any]) -> dict[str, Any]:
    """With the figures that a table takes from the nested ones."""
    more = {
        "normality": figures["explained"]["normality"],
        "second_normality": figures["second"]["normality"],
        "l1_mean": mean(figures["l1"]),
    }
    return figures | more | ({"normals_l1_max": max(figures["normals_l1"])} if "normals_l1" in figures else {})


def _show(rows: dict[str, Any], baselines: dict[str, Any]) -> None:
    for name, row in rows.items():
        for seed, one in row["seeds"].items():
            print(f"{name:<22} seed {seed}  " + "  ".join(f"{figure} {one[figure]:.3f}" for figure in FIGURES))
    for name, one in baselines.items():
        print(
            f"{name:<22} "
            + "  ".join(f"{figure} {one[figure]:.3f}" for figure in FIGURES if one.get(figure) is not None)
        )


if __name__ == "__main__":
    main()
