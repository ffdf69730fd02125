"""One-vs-rest image AUROC of the one-class family: `python -m benchmarks.one_class [--quick]`.

Protocol of Ruff et al. (ICML 2018) and of the FCDD paper (arXiv 2007.01760, table 1): train on the published train
images of one class (a fifth of them held out for the threshold), test on all 10,000 published test images, one class
normal. Every method gets the same outlier exposure: for Fashion-MNIST the 60,000 MNIST train digits, for MNIST the
Fashion-MNIST ones, so no image of the tested set is among them. DSVDD and the autoencoder ignore it. The papers used
CIFAR-100 or EMNIST letters, which no package carries: their figures stand beside ours, but another exposure was used.

Each cell (set, class, method, seed) is kept in var/bench-one-class/ and is not measured twice while settings and code
are the same: stop it and start it again as you like. Cells that were not run are listed as missing.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks.results import write_results
from xadflow.data.public_sets import SETS, RawImages, fetch, read_raw
from xadflow.detectors import FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.training import resolve_device, seeded
from xadflow.digests import sha256_json
from xadflow.lineage import code_digest
from xadflow.metrics.intervals import bootstrap_interval
from xadflow.metrics.ranks import auroc, tied_share
from xadflow.progress import progress_board, track
from xadflow.settings import Home

METHODS = ("fcdd_conv", "hsc", "deep_sad", "bce", "dsvdd", "ae")
EXPOSED_TO = {"fashion-mnist": "mnist", "mnist": "fashion-mnist"}
VAL_SHARE = 0.2
QUICK_CLASSES = {"fashion-mnist": (0, 3, 8), "mnist": (1, 3, 8)}  # t-shirt, dress, bag; 1, 3, 8
PUBLISHED = {"fcdd_conv": 0.89, "dsvdd": 0.93, "ae": 0.82}  # means on Fashion-MNIST, fcdd.md section 9
SYNTHETIC_FREE = {"anomalies": ("outliers",)}  # the papers' exposure alone


@dataclass(frozen=True)
class Cell:
    """One training."""

    set: str
    normal: int
    method: str
    seed: int


def main() -> None:
    """Measure what is missing, then write benchmarks/results/one-class.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 classes of each set, seed 0, few steps")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after so many minutes")
    arguments = parser.parse_args()
    started = time.monotonic()
    home = Home.find()
    for name in EXPOSED_TO:
        fetch(home, name)
    seeds = [0] if arguments.quick else [0, 1, 2]
    settings = training_settings(quick=arguments.quick)
    cells = [Cell(of, normal, method, seed)
             for of in EXPOSED_TO for seed in seeds
             for normal in (QUICK_CLASSES[of] if arguments.quick else range(10)) for method in METHODS]  # fmt: skip
    found: dict[Cell, dict[str, float]] = {}
    raw = {name: read_raw(home, name) for name in SETS}
    with progress_board():
        for cell in cells:
            kept = _kept(home, cell, settings)
            if kept.is_file():
                found[cell] = json.loads(kept.read_text())
            elif time.monotonic() - started < 60 * arguments.minutes:
                found[cell] = _measured(cell, settings, raw, kept)
                print(f"{cell.set:<14} normal {SETS[cell.set].classes[cell.normal]:<11} {cell.method:<10} seed {cell.seed}  "
                      f"AUROC {found[cell]['auroc']:.3f}  {found[cell]['seconds']:.0f} s", flush=True)  # fmt: skip
    figures = {name: _table(name, cells, found) for name in EXPOSED_TO}
    _show(figures)
    write_results("one-class", {"settings": settings, "sets": figures}, seeds=seeds,
                  seconds=sum(one["seconds"] for one in found.values()), quick=arguments.quick)  # fmt: skip


def training_settings(*, quick: bool) -> dict[str, Any]:
    """The same for every method; a CPU gets the narrow network and few steps."""
    on_gpu = resolve_device("auto").type == "cuda"
    if on_gpu:
        return {"network": "cnn28_w", "epochs": 100.0, "min_steps": 1, "batch_size": 128, **SYNTHETIC_FREE}
    steps = 600 if quick else 2000
    return {"network": "cnn28", "epochs": 0.01, "min_steps": steps, "batch_size": 128, "learning_rate": 5e-3,
            **SYNTHETIC_FREE}  # fmt: skip


def _kept(home: Home, cell: Cell, settings: dict[str, Any]) -> Path:
    key = sha256_json({**asdict(cell), "settings": settings, "code": code_digest("detectors", "data/public_sets.py")})[:16]
    return home.state / "bench-one-class" / f"{cell.set}-{cell.normal}-{cell.method}-{cell.seed}-{key}.json"


def training_data(of: RawImages, normal: int, outliers: RawImages) -> TrainingData:
    """Train images of one class, a seeded fifth of them held out, and the outliers."""
    normals = torch.from_numpy(of.train[of.train_labels == normal].copy())[:, None]
    order = torch.randperm(len(normals), generator=seeded(0, "held out"))
    val = round(VAL_SHARE * len(normals))
    none = torch.zeros(0, 1, 28, 28, dtype=torch.uint8)
    foreign = torch.from_numpy(outliers.train.copy())[:, None]
    return TrainingData(normals[order[val:]], normals[order[:val]], none, None, none, foreign)


def _measured(cell: Cell, settings: dict[str, Any], raw: dict[str, RawImages], kept: Path) -> dict[str, float]:
    started = time.monotonic()
    detector = build_detector(cell.method, **settings)
    data = training_data(raw[cell.set], cell.normal, raw[EXPOSED_TO[cell.set]])
    with track(f"{cell.set} {cell.normal} {cell.method} seed {cell.seed}") as update:
        detector.fit(data, FitRun(kept.with_suffix(""), cell.seed, 0.05, "auto", update))
    test = torch.from_numpy(raw[cell.set].test.copy())[:, None]
    with torch.no_grad():
        parts = [detector.image_score(as_float(batch)) for batch in torch.split(test, 500)]  # type: ignore[attr-defined]
    scores = torch.cat(parts).double().cpu().numpy()
    labels = (raw[cell.set].test_labels != cell.normal).astype(np.int64)
    interval = bootstrap_interval(scores, labels, bootstrap=500)
    found = {"auroc": auroc(scores, labels), "low": interval.low, "high": interval.high, "tied": tied_share(scores, labels),
             "seconds": time.monotonic() - started}  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def _table(name: str, cells: list[Cell], found: dict[Cell, dict[str, float]]) -> dict[str, Any]:
    """method -> class -> figures over seeds; the mean of the classes that were run; what is missing."""
    table: dict[str, Any] = {}
    for method in METHODS:
        rows = {}
        for normal in sorted({cell.normal for cell in cells if cell.set == name}):
            runs = [found[cell] for cell in cells if (cell.set, cell.normal, cell.method) == (name, normal, method)
                    and cell in found]  # fmt: skip
            if runs:
                rows[SETS[name].classes[normal]] = {
                    "auroc": mean(run["auroc"] for run in runs), "seeds": len(runs),
                    "low": mean(run["low"] for run in runs), "high": mean(run["high"] for run in runs),
                }  # fmt: skip
        missing = [f"{SETS[name].classes[cell.normal]} seed {cell.seed}" for cell in cells
                   if (cell.set, cell.method) == (name, method) and cell not in found]  # fmt: skip
        table[method] = {"classes": rows, "mean": mean(row["auroc"] for row in rows.values()) if rows else None,
                         "missing": missing}  # fmt: skip
    return table


def _show(figures: dict[str, Any]) -> None:
    for name, table in figures.items():
        print(f"\n{name}: image AUROC, mean over the classes run")
        for method, row in table.items():
            beside = f"  (published, other exposure and all classes: {PUBLISHED[method]:.2f})" if (
                name == "fashion-mnist" and method in PUBLISHED) else ""  # fmt: skip
            value = "not run" if row["mean"] is None else f"{row['mean']:.3f}"
            print(f"  {method:<10} {value}{beside}  missing {len(row['missing'])}")


if __name__ == "__main__":
    main()
