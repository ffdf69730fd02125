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

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.baselines import AUTOENCODER, nearest_of, projected, searched
from benchmarks.counterfactuals_kit.grid import write_sheet
from benchmarks.counterfactuals_kit.judging import (
    between_concepts,
    counterfactuals,
    distances,
    judged_by,
    mean_sizes,
    noise_figures,
    scores_of,
)
from benchmarks.counterfactuals_kit.readers import classes_and_features, perceptual
from benchmarks.counterfactuals_kit.running import run_cells
from benchmarks.counterfactuals_kit.single import (
    METHODS,
    NORMAL,
    QUICK_STEPS,
    Cell,
    anomaly_probability,
    described,
    detector_folder,
    generator,
    generator_folder,
    kept_detector,
    learnt,
    place,
    reader,
    second_detector,
    tested,
)
from benchmarks.results import write_results
from xadflow.datasets.public.fetching import fetch
from xadflow.datasets.public.photo_crops import PHOTO_SETS
from xadflow.digests import sha256_json
from xadflow.lineage import code_digest
from xadflow.metrics.factors import legible
from xadflow.metrics.ranks import auroc
from xadflow.settings import Home

MEASURES = 1  # change it when figures come to mean something else
EXPLAINED, SPAN, BASELINE_IMAGES, NOISY = 1000, 3000, 256, 256
METRICS = ("concept_accuracy", "edits", "factors", "normality", "perceptual", "ranks", "realism", "stability")
CODE = (*(f"metrics/{name}.py" for name in METRICS), "explainers/diverse/explainer.py")
SEARCHES = (*CODE, *(f"explainers/{name}.py" for name in ("sparse", "frank_wolfe", "oracle")))
PUBLISHED = {  # MNIST, mean of ten classes; EMNIST letters as exposure, another FID network
    "bce": {"normality": "72.0 +- 4.0", "fid_n": "43 +- 8.1"},
    "hsc": {"normality": "80.8 +- 5.3", "fid_n": "68 +- 14.6"},
    "dsvdd": {"normality": "75.2 +- 9.2", "fid_n": "100 +- 8.8"},
}
FIGURES = (
    "normality",
    "second_normality",
    "fid_n",
    "kid_n",
    "read_as_normal",
    "l1_mean",
    "normals_l1_max",
    "apart",
    "cosine",
    "concept_accuracy",
    "perceptual",
    "noise_pixels",
    "noise_probability",
)
SHOWN_EACH = 2
Pixels = NDArray[np.uint8]


def main() -> None:
    """Train and measure what is missing, then write benchmarks/results/counterfactuals-single.json and pictures in
    var/.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"mnist, bce, seed 0, {QUICK_STEPS} steps, and its baselines"
    )
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="WORD", help="only these sets, detectors, variants or seeds"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after so many minutes")
    parser.add_argument("--jobs", type=int, default=0, help="cells at once; by default one for each core")
    arguments = parser.parse_args()
    home, cells = Home.find(), wanted_cells(arguments.quick)
    for name in (*NORMAL, *PHOTO_SETS):
        fetch(home, name)
    wanted = [cell for cell in cells if chosen(cell, arguments.only) and not _kept(home, cell).is_file()]
    if wanted:
        for name in sorted({cell.set for cell in wanted}):
            second_detector(home, name), reader(home, name)  # trained once, read by all
        run_cells(wanted, _measured, arguments.jobs, time.monotonic() + 60 * arguments.minutes)
    found = {cell: json.loads(kept.read_text()) for cell in cells if (kept := _kept(home, cell)).is_file()}
    figures = {
        "settings": described() | {"autoencoder": AUTOENCODER},
        "images": EXPLAINED,
        "baseline_images": BASELINE_IMAGES,
        "judges": {name: _judges(home, name) for name in sorted({cell.set for cell in found})},
        "rows": rows_of(found),
        "baselines": _baselines(found),
        "published_mnist": PUBLISHED,
        "missing": [str(cell) for cell in cells if cell not in found and cell.seed == 0],
        "commits": sorted({one["commit"] for one in found.values()}),
    }
    _show(figures)
    write_results(
        "counterfactuals-single",
        figures,
        seeds=sorted({cell.seed for cell in found}),
        seconds=float(sum(one["seconds"] for one in found.values())),
        quick=arguments.quick,
    )
    for name in NORMAL:
        write_picture(home, name, [cell for cell in found if (cell.set, cell.variant, cell.seed) == (name, "full", 0)])


def wanted_cells(quick: bool) -> list[Cell]:
    """All cells, what matters most first: every detector with one seed, its baselines, then more seeds for bce."""
    if quick:
        return [Cell("mnist", "bce", "full", 0, QUICK_STEPS), Cell("mnist", "bce", "baselines", 0)]
    full = [Cell(name, method, "full", 0) for name in NORMAL for method in METHODS]
    bare = [Cell(one.set, one.method, "baselines", 0) for one in full]
    return [*full, *bare, *(Cell(name, "bce", "full", seed) for seed in (1, 2) for name in NORMAL)]


def chosen(cell: Cell, only: Sequence[str]) -> bool:
    """Whether --only takes a cell: by any of the words of each kind that it names."""
    words = [(one.set, one.method, one.variant, str(one.seed)) for one in wanted_cells(False)]
    asked = [set(only) & set(known) for known in zip(*words, strict=True)]
    own = (cell.set, cell.method, cell.variant, str(cell.seed))
    return all(not some or word in some for word, some in zip(own, asked, strict=True))


def _kept(home: Home, cell: Cell) -> Path:
    """The figures of a cell."""
    bare = cell.variant == "baselines"
    trained = detector_folder(home, cell.set, cell.method, cell.seed) if bare else generator_folder(home, cell)
    code = code_digest(*(SEARCHES if bare else CODE))
    key = sha256_json({**asdict(cell), "trained": trained.name, "measures": MEASURES, "code": code})[:12]
    return place(home) / f"figures-{cell.set}-{cell.method}-{cell.variant}-{cell.seed}-{key}.json"


def _measured(cell: Cell, until: float, at: str) -> float | None:
    """Seconds of one cell, whose figures are written; None when it is too late to start."""
    started = time.monotonic()
    if started > until:
        return None
    home = Home.find()
    kept, detector = _kept(home, cell), kept_detector(home, cell.set, cell.method, cell.seed)
    figures: dict[str, Any]
    if cell.variant == "baselines":
        of = tested(cell.set).anomalies(BASELINE_IMAGES)
        figures = {}
        for name, made in _baselines_made(home, cell):
            figures[name] = made_figures(home, cell, of, made)
    else:
        figures, made = _generator_figures(home, cell)
        np.savez_compressed(kept.with_suffix(".npz"), made=made)
    figures = {"detector": _detector_figures(cell, detector)} | figures
    seconds = time.monotonic() - started
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps({"figures": figures, "seconds": seconds, "commit": at}, allow_nan=False))
    partial.replace(kept)
    return seconds


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


def _generator_figures(home: Home, cell: Cell) -> tuple[dict[str, Any], Pixels]:
    """Figures of a trained generator, and its counterfactuals [N,K,...] of the explained anomalies."""
    explainer, detector = generator(home, cell), kept_detector(home, cell.set, cell.method, cell.seed)
    of, normals = tested(cell.set).anomalies(EXPLAINED), tested(cell.set).normals
    made = counterfactuals(explainer, detector, of)
    figures = made_figures(home, cell, of, made)
    figures |= noise_figures(
        detector, explainer, lambda scores: anomaly_probability(cell, detector, scores), of[:NOISY], made[:NOISY]
    )
    figures["normals_l1"] = mean_sizes(normals, counterfactuals(explainer, detector, normals))
    return figures, made


def _baselines_made(home: Home, cell: Cell) -> list[tuple[str, Pixels]]:
    """Names and counterfactuals [N,1,...] of what a generator is compared with."""
    detector, data = kept_detector(home, cell.set, cell.method, cell.seed), learnt(cell.set)
    of, train = tested(cell.set).anomalies(BASELINE_IMAGES), data.normals.numpy()
    return [
        ("nearest train normal", nearest_of(detector, train, of)),
        ("l2 attack", searched(detector, of, p=2.0)),
        ("sparse", searched(detector, of)),
        ("autoencoder", projected(train, data.val_normals.numpy(), cell.seed, of)),
        ("unchanged", of[:, None]),
    ]


def made_figures(home: Home, cell: Cell, of: Pixels, made: Pixels) -> dict[str, Any]:
    """Figures of any counterfactuals `made` of the anomalies `of`."""
    known, judge = tested(cell.set), reader(home, cell.set)
    judges = {
        "explained": kept_detector(home, cell.set, cell.method, cell.seed),
        "second": second_detector(home, cell.set),
    }
    found: dict[str, Any] = {name: judged_by(one, known.normals, made) for name, one in judges.items()}
    classes, features = classes_and_features(judge, made.reshape(-1, *made.shape[2:]))
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


def _judges(home: Home, name: str) -> dict[str, float]:
    """How good the judges are on the test images, and what the reader makes of unchanged anomalies."""
    of = tested(name)
    read = classes_and_features(reader(home, name), of.images)[0] == NORMAL[name]
    second = scores_of(second_detector(home, name), of.images)
    return {
        "read_normals": float(read[of.is_normal].mean()),
        "read_anomalies": float(read[~of.is_normal].mean()),
        "second_auroc": auroc(second, ~of.is_normal),
    }


def rows_of(found: dict[Cell, Any]) -> dict[str, Any]:
    """Rows by set and detector: each seed's figures, and mean and spread of those that are summed up."""
    rows: dict[str, Any] = {}
    for cell, one in found.items():
        if cell.variant == "full":
            row = rows.setdefault(f"{cell.set} {cell.method}", {"seeds": {}, "steps": cell.steps})
            row["seeds"][str(cell.seed)] = _summed(one["figures"])
    for row in rows.values():
        each = list(row["seeds"].values())
        row["mean"] = {name: mean(one[name] for one in each) for name in FIGURES}
        row["sd"] = {name: stdev(one[name] for one in each) for name in FIGURES} if len(each) > 1 else None
    return rows


def _baselines(found: dict[Cell, Any]) -> dict[str, Any]:
    """set and detector -> baseline -> figures."""
    return {
        f"{cell.set} {cell.method}": {name: _summed(own) for name, own in one["figures"].items() if name != "detector"}
        for cell, one in found.items()
        if cell.variant == "baselines"
    }


def _summed(figures: dict[str, Any]) -> dict[str, Any]:
    """With the figures that a table takes from the nested ones."""
    more = {
        "normality": figures["explained"]["normality"],
        "second_normality": figures["second"]["normality"],
        "l1_mean": mean(figures["l1"]),
    }
    return figures | more | ({"normals_l1_max": max(figures["normals_l1"])} if "normals_l1" in figures else {})


def write_picture(home: Home, name: str, cells: Sequence[Cell]) -> None:
    """The first two anomalies of each class above, below them both concepts of each detector; in var/."""
    if not cells:
        return
    of, raw = tested(name).anomalies(EXPLAINED), tested(name)
    labels = raw.labels[np.flatnonzero(~raw.is_normal)[:EXPLAINED]]
    rows = np.concatenate([np.flatnonzero(labels == number)[:SHOWN_EACH] for number in sorted(set(labels.tolist()))])
    lines = [of[rows]]
    for cell in cells:
        with np.load(_kept(home, cell).with_suffix(".npz")) as kept:
            lines += [kept["made"][rows, concept] for concept in range(kept["made"].shape[1])]
    write_sheet(lines, place(home) / f"picture-{name}.png")


def _show(figures: dict[str, Any]) -> None:
    for name, row in figures["rows"].items():
        for seed, one in row["seeds"].items():
            print(f"{name:<24} seed {seed}  " + "  ".join(f"{figure} {one[figure]:.3f}" for figure in FIGURES))
    for name, own in figures["baselines"].items():
        for kind, one in own.items():
            print(
                f"{name:<24} {kind:<20} "
                + "  ".join(f"{figure} {one[figure]:.3f}" for figure in FIGURES if figure in one)
            )


if __name__ == "__main__":
    main()
