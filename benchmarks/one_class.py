"""One-vs-rest image AUROC of the one-class family: `python -m benchmarks.one_class [--quick] [--only ...]`.

Protocol of Ruff et al. (ICML 2018) and of the FCDD paper (arXiv 2007.01760, table 1): train on the published train
images of one class (a fifth of them held out for the threshold), test on all 10,000 published test images, that class
normal. Every method gets the same outlier exposure: for clothes grey 28 px crops of packaged photographs and game
textures (xadflow/datasets/public/photo_crops.py), for digits letters in Matplotlib's fonts (letters.py); no image of
MNIST or Fashion-MNIST is among them. DSVDD and the autoencoder ignore it. The papers used CIFAR-100 or EMNIST letters,
which no package carries: their figures stand beside ours, but the exposure differs.

Each cell (set, class, method, seed) is kept in var/bench-one-class/ and is not measured twice while settings and code
are the same: stop it and start it again as you like. Cells that were not run are listed as missing. Steps, rate and
exposure were chosen with half of the test images of Fashion-MNIST's t-shirt, dress and bag and of MNIST's 3 and 8 in
sight (one seed): those are classes of --quick, so the other classes are the honest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.study import Study, kept
from xadflow.datasets.public.fetching import fetch
from xadflow.datasets.public.letters import letters
from xadflow.datasets.public.photo_crops import PHOTO_SETS, crops, photos
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.sets import SETS, RawImages
from xadflow.detectors import FitRun, TrainingData, build_detector
from xadflow.images import as_float, to_input
from xadflow.metrics.intervals import resampled_tables
from xadflow.metrics.ranks import auroc, auroc_of, rank, tied_share
from xadflow.settings import Home
from xadflow.training.devices import resolve_device
from xadflow.training.seeds import seeded

METHODS = ("fcdd_conv", "hsc", "deep_sad", "bce", "dsvdd", "ae")
TESTED = ("fashion-mnist", "mnist")
VAL_SHARE = 0.2
QUICK_CLASSES = {"fashion-mnist": (0, 3, 8), "mnist": (1, 3, 8)}  # t-shirt, dress, bag; one, three, eight
CROPS_EACH, LETTERS = 12, 20_000
EXPOSURE = {"fashion-mnist": f"crops of {', '.join(PHOTO_SETS)}", "mnist": "letters in Matplotlib's fonts"}
STEPS, FEW_STEPS = 1500, 400
PUBLISHED = {"fcdd_conv": 0.89, "dsvdd": 0.93, "ae": 0.82}  # means on Fashion-MNIST, fcdd.md section 9
BOOTSTRAP = 1000


STUDY = Study("one-class", own=("one_class.py",))


@dataclass(frozen=True)
class Cell:
    """One training: `normal` is a class of `set`."""

    set: str
    normal: int
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.set:<14} normal {SETS[self.set].classes[self.normal]:<11} {self.method:<10} seed {self.seed}"


def main() -> None:
    """Measure what is missing, then write benchmarks/results/one-class.json."""
    given = STUDY.start(__doc__, "3 classes of each set, seed 0", "only", "minutes", "jobs")
    home, seeds = Home.find(), [0] if given.quick else [0, 1, 2]
    for name in (*TESTED, *PHOTO_SETS):
        fetch(home, name)
    cells = [
        Cell(of, normal, method, seed)
        for of in TESTED
        for seed in seeds
        for normal in (QUICK_CLASSES[of] if given.quick else range(10))
        for method in METHODS
    ]
    outliers = {name: outliers_of(home, name) for name in TESTED}  # written once, read by all
    on_gpu = resolve_device("auto").type == "cuda"
    found = STUDY.measure(cells, _path, _measured, given.jobs or (1 if on_gpu else torch.get_num_threads()))
    figures = {
        "settings": {name: {method: training_settings(name, method) for method in METHODS} for name in TESTED},
        "exposure": {name: {"of": EXPOSURE[name], "images": len(outliers[name])} for name in TESTED},
        "sets": {name: _table(name, cells, found) for name in TESTED},
        "published": PUBLISHED,
    }
    STUDY.write(figures, seeds, float(sum(one["seconds"] for one in found.values())))


def training_settings(name: str, method: str) -> dict[str, Any]:
    """Settings of one method; a CPU gets the narrow network and few steps. Mirrored clothes are normal,
    digits are not.
    """
    shared = {"anomalies": ("outliers",), "batch_size": 128, "flip": name != "mnist"}
    if resolve_device("auto").type == "cuda":
        return {"network": "cnn28_w", "epochs": 100.0, "min_steps": 1, **shared}
    shared |= {"network": "cnn28", "epochs": 0.01, "min_steps": STEPS, "crop_px": 1}
    if method == "dsvdd":  # shifted normals teach it to overlook a shift, and more steps to overlook more
        return {**shared, "learning_rate": 1e-3, "min_steps": FEW_STEPS, "crop_px": 0}
    if method in ("ae", "deep_sad"):  # unbounded losses: the published rate of the others blows up
        return {**shared, "learning_rate": 1e-3}
    return {**shared, "optimiser": "sgd", "learning_rate": 2e-2}


@cache
def _raw(name: str) -> RawImages:
    return read_raw(Home.find(), name)


@cache
def outliers_of(home: Home, name: str) -> torch.Tensor:
    """Outliers for a set, uint8 [N,1,28,28]; kept in a file between runs."""

    def drawn() -> dict[str, NDArray[np.uint8]]:
        if name == "mnist":
            return {"images": letters(LETTERS, 28, 0)[:, None]}
        found = photos(home, PHOTO_SETS)
        small = [to_input(crop, (28, 28), 1) for photo in found for crop in crops(photo, CROPS_EACH, 28, 0)]
        return {"images": np.stack(small)}

    return torch.from_numpy(kept(STUDY.path(f"outliers-{name}.npz"), drawn)["images"])


def training_data(of: RawImages, normal: int, outliers: torch.Tensor) -> TrainingData:
    """Train images of one class, a seeded fifth of them held out, and the outliers."""
    normals = torch.from_numpy(of.train[of.train_labels == normal].copy())[:, None]
    order = torch.randperm(len(normals), generator=seeded(0, "held out"))
    val = round(VAL_SHARE * len(normals))
    none = torch.zeros(0, 1, 28, 28, dtype=torch.uint8)
    return TrainingData(normals[order[val:]], normals[order[:val]], none, None, none, outliers)


def _path(cell: Cell) -> Path:
    settings = training_settings(cell.set, cell.method)
    return STUDY.path(f"{cell.set}-{cell.normal}-{cell.method}-{cell.seed}.npz", settings=settings)


def _measured(cell: Cell) -> dict[str, NDArray[np.float64]]:
    """Raw scores of the test images."""
    raw = _raw(cell.set)
    detector = build_detector(cell.method, **training_settings(cell.set, cell.method))
    data = training_data(raw, cell.normal, outliers_of(Home.find(), cell.set))
    detector.fit(data, FitRun(_path(cell).with_suffix(""), cell.seed, 0.05, "auto", None))
    test = torch.from_numpy(raw.test.copy())[:, None]
    with torch.no_grad():
        scores = torch.cat([detector.image_score(as_float(batch)) for batch in test.split(500)])  # type: ignore[attr-defined]
    return {"scores": scores.double().cpu().numpy()}


def _labels(cell: Cell) -> NDArray[np.int64]:
    return (_raw(cell.set).test_labels != cell.normal).astype(np.int64)


def _table(name: str, cells: Sequence[Cell], found: dict[Cell, dict[str, Any]]) -> dict[str, Any]:
    """method -> class -> figures over seeds; the mean of the classes that were run; what is missing.

    Intervals are of the test images, drawn for each class apart: that classes share their test images is left out.
    """
    table: dict[str, Any] = {}
    for method in METHODS:
        own = [cell for cell in cells if (cell.set, cell.method) == (name, method)]
        rows, drawn = {}, []
        for normal in sorted({cell.normal for cell in own if cell in found}):
            runs = [cell for cell in own if cell in found and cell.normal == normal]
            values = [auroc(found[cell]["scores"], _labels(cell)) for cell in runs]
            draws = np.mean([_resampled(found[cell]["scores"], _labels(cell)) for cell in runs], axis=0)
            drawn.append(draws)
            rows[SETS[name].classes[normal]] = {
                "auroc": mean(values),
                "each_seed": values,
                **_ends(draws),
                "tied": max(tied_share(found[cell]["scores"], _labels(cell)) for cell in runs),
            }
        missing = [f"{SETS[name].classes[cell.normal]} seed {cell.seed}" for cell in own if cell not in found]
        table[method] = {
            "classes": rows,
            "missing": missing,
            "mean": mean(row["auroc"] for row in rows.values()) if rows else None,
            **(_ends(np.mean(drawn, axis=0)) if rows else {}),
        }
    return table


def _resampled(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """AUROC of resampled test images [BOOTSTRAP]; the same images for every method and seed of a class."""
    return np.concatenate([auroc_of(*tables) for tables in resampled_tables(rank(scores, labels), BOOTSTRAP, 0)])


def _ends(draws: NDArray[np.float64]) -> dict[str, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
