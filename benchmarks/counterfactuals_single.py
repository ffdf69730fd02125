"""Counterfactuals of one-class detectors on MNIST and Fashion-MNIST: `python -m benchmarks.counterfactuals_single
[--quick]`.

Normal is one class (arXiv 2402.14469, scenario "single"); a generator is trained for each of four detectors on normals
and the exposure, which holds no image of the set, and has to turn images of the nine other classes into the normal one.
There is no second way to be normal here as there is on Coloured-MNIST, so two concepts can only differ in how they draw
it.

Who says that it did: the explained detector, a second one, and a reader of all ten classes that no training has seen;
the last is what counts. Explained are the first 1000 test images of other classes; nothing was chosen by them. Each
cell (set, detector, variant, seed) is kept in var/bench-counterfactuals-single/ as in bench-counterfactuals.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.baselines import AUTOENCODER, projected
from benchmarks.counterfactuals_kit.factors import legible
from benchmarks.counterfactuals_kit.readers import classes_and_features, perceptual
from benchmarks.counterfactuals_kit.single import (
    METHODS,
    NORMAL,
    QUICK_STEPS,
    STUDY,
    Cell,
    anomaly_probability,
    described,
    generator,
    generator_folder,
    kept_detector,
    learnt,
    reader,
    second_detector,
    tested,
)
from benchmarks.kit.baselines import nearest_normal, searched
from benchmarks.kit.judging import (
    between_concepts,
    distances,
    flat,
    judged_by,
    mean_sizes,
    noise_figures,
    scores_of,
    told,
)
from benchmarks.kit.rows import summed, summed_rows
from benchmarks.kit.sheets import write_sheet
from benchmarks.study import write
from xadflow.datasets.public.fetching import fetch
from xadflow.datasets.public.photo_crops import PHOTO_SETS
from xadflow.metrics.ranks import auroc
from xadflow.settings import Home

EXPLAINED, SPAN, BASELINE_IMAGES, NOISY = 1000, 3000, 256, 256
PUBLISHED = {  # MNIST, mean of ten classes; EMNIST letters as exposure, another FID network
    "bce": {"normality": "72.0 +- 4.0", "fid_n": "43 +- 8.1"},
    "hsc": {"normality": "80.8 +- 5.3", "fid_n": "68 +- 14.6"},
    "dsvdd": {"normality": "75.2 +- 9.2", "fid_n": "100 +- 8.8"},
}
FIGURES = (
    "normality second_normality fid_n kid_n read_as_normal l1_mean normals_l1_max apart cosine concept_accuracy "
    "perceptual noise_pixels noise_probability"
).split()
SHOWN_EACH = 2
Pixels = NDArray[np.uint8]


def main() -> None:
    """Train and measure what is missing, then write benchmarks/results/counterfactuals-single.json and pictures in
    var/.
    """
    quick = f"mnist, bce, seed 0, {QUICK_STEPS} steps, and its baselines"
    given = STUDY.start(__doc__, quick, "only", "minutes", "jobs")
    cells = wanted_cells(given.quick)
    for name in (*NORMAL, *PHOTO_SETS):
        fetch(Home.find(), name)
    for name in sorted({cell.set for cell in cells}):
        second_detector(name), reader(name)  # trained once, read by all
    found = STUDY.measure(cells, _path, _measured, given.jobs or os.cpu_count() or 1)
    figures = {
        "settings": described() | {"autoencoder": AUTOENCODER},
        "images": EXPLAINED,
        "baseline_images": BASELINE_IMAGES,
        "judges": {name: _judges(name) for name in sorted({cell.set for cell in found})},
        "rows": rows_of(found),
        "baselines": _baselines(found),
        "published_mnist": PUBLISHED,
        "missing": [str(cell) for cell in cells if cell not in found and cell.seed == 0],
        "commits": sorted({one["commit"] for one in found.values()}),
    }
    STUDY.write(figures, sorted({cell.seed for cell in found}), float(sum(one["seconds"] for one in found.values())))
    for name in NORMAL:
        write_picture(name, [cell for cell in found if (cell.set, cell.variant, cell.seed) == (name, "full", 0)])


def wanted_cells(quick: bool) -> list[Cell]:
    """All cells, what matters most first: every detector with one seed, its baselines, then more seeds for bce."""
    if quick:
        return [Cell("mnist", "bce", "full", 0, QUICK_STEPS), Cell("mnist", "bce", "baselines", 0)]
    full = [Cell(name, method, "full", 0) for name in NORMAL for method in METHODS]
    bare = [Cell(one.set, one.method, "baselines", 0) for one in full]
    return [*full, *bare, *(Cell(name, "bce", "full", seed) for seed in (1, 2) for name in NORMAL)]


def _path(cell: Cell) -> Path:
    """The figures of a cell."""
    stem = f"figures-{cell.set}-{cell.method}-{cell.variant}-{cell.seed}.json"
    return STUDY.path(stem, cell=asdict(cell), generator=generator_folder(cell).name)


def _measured(cell: Cell) -> dict[str, Any]:
    detector, data = kept_detector(cell.set, cell.method, cell.seed), learnt(cell.set)
    figures: dict[str, Any] = {"detector": _detector_figures(cell, detector)}
    if cell.variant != "baselines":
        found, made = _generator_figures(cell)
        write(_path(cell).with_suffix(".npz"), {"made": made})
        return figures | found
    of, train = tested(cell.set).anomalies(BASELINE_IMAGES), data.normals.numpy()
    baselines = {
        "nearest train normal": nearest_normal(detector, train, of),
        "l2 attack": searched(detector, of, p=2.0),
        "sparse": searched(detector, of),
        "autoencoder": projected(train, data.val_normals.numpy(), cell.seed, of),
        "unchanged": of[:, None],
    }
    return figures | {name: made_figures(cell, of, made) for name, made in baselines.items()}


def _detector_figures(cell: Cell, detector: Any) -> dict[str, float]:
    """Whether there is anything to explain."""
    of = tested(cell.set)
    scores = scores_of(detector, of.images)
    phi = anomaly_probability(cell, detector, scores)
    return {
        "auroc": auroc(scores, ~of.is_normal),
        "flagged": float((scores[~of.is_normal] > detector.calibration.threshold).mean()),
        "phi_anomalies": float(phi[~of.is_normal].mean()),
        "phi_normals": float(phi[of.is_normal].mean()),
    }


def _generator_figures(cell: Cell) -> tuple[dict[str, Any], Pixels]:
    """Figures of a trained generator, and its counterfactuals [N,K,...] of the explained anomalies."""
    explainer, detector = generator(cell), kept_detector(cell.set, cell.method, cell.seed)
    of, normals = tested(cell.set).anomalies(EXPLAINED), tested(cell.set).normals
    made = told(explainer, detector, of)
    figures = made_figures(cell, of, made)
    figures |= noise_figures(
        detector, explainer, lambda scores: anomaly_probability(cell, detector, scores), of[:NOISY], made[:NOISY]
    )
    figures["normals_l1"] = mean_sizes(normals, told(explainer, detector, normals))
    return figures, made


def made_figures(cell: Cell, of: Pixels, made: Pixels) -> dict[str, Any]:
    """Figures of any counterfactuals `made` of the anomalies `of`."""
    known, judge = tested(cell.set), reader(cell.set)
    judges = {"explained": kept_detector(cell.set, cell.method, cell.seed), "second": second_detector(cell.set)}
    found: dict[str, Any] = {name: judged_by(one, known.normals, made) for name, one in judges.items()}
    classes, features = classes_and_features(judge, flat(made))
    others = [classes_and_features(judge, images)[1] for images in (known.normals, known.anomalies(SPAN))]
    read = (classes.reshape(made.shape[:2]) == NORMAL[cell.set]) & legible(made)
    return (
        found
        | distances(features.reshape(*made.shape[:2], -1), *others)
        | {
            "read_as_normal": float(read.mean()),
            "read_as_normal_each": read.mean(axis=0).tolist(),
            "l1": mean_sizes(of, made),
            "perceptual": float(perceptual(judge, of, made).mean()),
            "images": len(made),
        }
        | between_concepts(of, made, cell.seed)
    )


def _judges(name: str) -> dict[str, float]:
    """How good the judges are on the test images, and what the reader makes of unchanged anomalies."""
    of = tested(name)
    read = classes_and_features(reader(name), of.images)[0] == NORMAL[name]
    second = scores_of(second_detector(name), of.images)
    return {
        "read_normals": float(read[of.is_normal].mean()),
        "read_anomalies": float(read[~of.is_normal].mean()),
        "second_auroc": auroc(second, ~of.is_normal),
    }


def rows_of(found: dict[Cell, Any]) -> dict[str, Any]:
    """Rows by set and detector: each seed's figures, and mean and spread of those that are summed up."""
    full = {(f"{cell.set} {cell.method}", cell): one for cell, one in found.items() if cell.variant == "full"}
    return summed_rows(full, FIGURES)


def _baselines(found: dict[Cell, Any]) -> dict[str, Any]:
    """set and detector -> baseline -> figures."""
    return {
        f"{cell.set} {cell.method}": {name: summed(own) for name, own in one["figures"].items() if name != "detector"}
        for cell, one in found.items()
        if cell.variant == "baselines"
    }


def write_picture(name: str, cells: Sequence[Cell]) -> None:
    """The first two anomalies of each class above, below them both concepts of each detector; in var/."""
    if not cells:
        return
    of, raw = tested(name).anomalies(EXPLAINED), tested(name)
    labels = raw.labels[np.flatnonzero(~raw.is_normal)[:EXPLAINED]]
    rows = np.concatenate([np.flatnonzero(labels == number)[:SHOWN_EACH] for number in sorted(set(labels.tolist()))])
    lines = [of[rows]]
    for cell in cells:
        with np.load(_path(cell).with_suffix(".npz")) as kept:
            lines += [kept["made"][rows, concept] for concept in range(kept["made"].shape[1])]
    write_sheet(lines, STUDY.place / f"picture-{name}.png")


if __name__ == "__main__":
    main()
