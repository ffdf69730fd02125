"""UTAD and its ablation: `python -m benchmarks.utad [--quick] [--only ...] [--minutes M]`.

Brick, grass and gravel on the middle rung (96 px, exact masks; xadflow/datasets/sources/textures.py), ELPV peer-0 (64
px, labels 0 and 1, no masks), Fashion-MNIST's dresses against the rest (32 px, the first 200 test images of each
class). No known defect and no outlier is used.

Trainings, of about the same time on a CPU:

    one stage        an autoencoder: no corruption, no code, a bottleneck four times as wide; both stages' time
    impression only  the first stage alone, both stages' time
    two stages       as `utad` is by default

and of each its maps: the difference x - m; of the two-stage one also those to x_hat, the released combination, with and
without its variance term, and perceptual distances. Beside: grey-value baselines. Sharpness is the gradient energy of a
reconstruction as a share of the image's; leak is the projection of what a drawn defect changes in the reconstruction on
what it changes in the image, inside its mask (0 suppressed, 1 copied), on test normals with defects of a kind that no
training drew (Perlin blends of another image); fidelity is the mean |difference| on test normals.

Each cell (set, training, seed) is kept in var/bench-utad/ with its checkpoints and is not measured twice: stop it and
start it again as you like. What was visible while choosing: the default map was chosen among eight on brick's
validation normals with drawn defects (one seed), after an earlier default had been seen on brick's test images (one
seed, middle rung); grass, gravel, ELPV at this size and Fashion-MNIST chose nothing here. The starting configuration
came from ELPV (docs/explanation/methods.md, "UTAD").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.study import Study
from benchmarks.tables import averaged
from benchmarks.textures import TEXTURES
from benchmarks.utad_sets import CLOTHES, NAMES, TestedSet, tested_set
from xadflow.defects.perlin import perlin
from xadflow.detectors import FitRun
from xadflow.detectors.utad.detector import Utad
from xadflow.explainers import build_explainer
from xadflow.images import as_float
from xadflow.metrics.localisation import aupro, pixel_auroc
from xadflow.metrics.ranks import auroc
from xadflow.training.seeds import seeded

SEEDS = (0, 1, 2)
TWO_STAGES, IMPRESSION, ONE_STAGE = "two stages", "impression only", "one stage"
# steps of the first stage alone that take as long as both stages: a step of the second takes 1.25 times as long
LONGER = 440
PLAIN, LOW = {"x-m": 1.0}, {"x-m": 1.0, "low-m": 1.0}
RELEASED = {"x-x_hat": 1.0, "x-m_hat": 1.0, "var-x_hat": -1.0, "x_hat-m": -1.0}
AUTOENCODER = {"corrupt": 0.0, "mi_local": 0.0, "mi_global": 0.0, "prior": 0.0, "z_channels": 64}
DEFAULT, WITH_M = "D(x,x_hat) and blurred (default)", "D(x,m) and blurred"
ONE: dict[str, Any] = {"min_steps": 1}
CLOTHES_ONLY = {"flips": "horizontal"}


STUDY = Study("utad", own=("utad.py", "utad_sets.py"))
Measured = dict[tuple[str, str, int], dict[str, Any]]  # set, title of a training, seed


@dataclass(frozen=True)
class Training:
    """One training, and its maps by name; a map's settings are those of `map` and `score`."""

    title: str
    impression: Mapping[str, Any]
    expert: Mapping[str, Any]
    maps: Mapping[str, Mapping[str, Any]]


TRAININGS = (
    Training(
        TWO_STAGES,
        {},
        {},
        {
            DEFAULT: {},
            "D(x,x_hat)": {"terms": {"x-x_hat": 1.0}},
            "D(x,m)": {"terms": PLAIN},
            WITH_M: {"terms": LOW},
            "blurred x, x_hat": {"terms": {"low-x_hat": 1.0}},
            "released": {"terms": RELEASED, "samples": 4},
            "released, no variance": {"terms": {**RELEASED, "var-x_hat": 0.0}, "samples": 4},
            "perceptual, lite0": {"terms": {"x-x_hat": 1.0}, "distance": "perceptual", "perceptual": "lite0"},
        },
    ),
    Training(IMPRESSION, {"min_steps": LONGER}, ONE, {WITH_M: {"terms": LOW}, "D(x,m)": {"terms": PLAIN}}),
    Training(
        ONE_STAGE, {"min_steps": LONGER, **AUTOENCODER}, ONE, {WITH_M: {"terms": LOW}, "D(x,m)": {"terms": PLAIN}}
    ),
)

BY_TITLE = {one.title: one for one in TRAININGS}


def main() -> None:
    """Measure what is missing, then write benchmarks/results/utad.json of what there is."""
    sheet = {"type": Path, "help": "draw brick's hottest anomaly as the explainer shows it, and nothing else"}
    given = STUDY.start(__doc__, "brick, one seed", "only", "minutes", sheet=sheet)
    if given.sheet:
        draw_sheet(given.sheet)
        return
    seeds, names = ((0,), TEXTURES[:1]) if given.quick else (SEEDS, NAMES)
    cells = [(name, training.title, seed) for seed in seeds for name in names for training in TRAININGS]
    found = STUDY.measure(cells, _path, _measured)
    spent = sum(one["seconds"] for one in found.values())
    STUDY.write(summary({cell: one["figures"] for cell, one in found.items()}, names, seeds), seeds, spent)


def _path(cell: tuple[str, str, int]) -> Path:
    name, title, seed = cell
    return STUDY.path(f"{name}-{seed}-{title}.json", training=asdict(BY_TITLE[title]))


def _measured(cell: tuple[str, str, int]) -> dict[str, Any]:
    name, title, seed = cell
    return measured(tested_set(name), name, BY_TITLE[title], seed)


def _folder(name: str, training: Training, seed: int) -> Path:
    """Where checkpoints are: another map, or another way to measure, trains nothing anew."""
    return STUDY.trained(f"{name}-{seed}-{training.title}", settings=settings_of(name, training, {}))


def settings_of(name: str, training: Training, of_map: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a detector."""
    flips = CLOTHES_ONLY if name == CLOTHES else {}
    return {
        "impression": {**training.impression, **flips},
        "expert": {**training.expert, **flips},
        "map": dict(of_map),
        "sheets": 0,
    }


def measured(of: TestedSet, name: str, training: Training, seed: int) -> dict[str, Any]:
    """Figures of one cell."""
    found: dict[str, Any] = {"maps": {}}
    first, *others = training.maps
    detector = Utad(**settings_of(name, training, training.maps[first]))
    report = detector.fit(of.data, FitRun(_folder(name, training, seed), seed, 0.05, "auto", None))
    found |= {"training_s": report.figures["training_s"], "steps": report.steps, "resumed_from": report.resumed_from}
    found["reconstructions"] = reconstruction_figures(detector, of, seed)
    found["maps"] = {first: map_figures(detector, of)}
    for title in others:
        other = Utad(**settings_of(name, training, training.maps[title]))
        other.take(detector, of.data, seed)
        found["maps"][title] = map_figures(other, of)
    return found


def draw_sheet(path: Path) -> None:
    """The contact sheet of docs/images, of brick's training with seed 0."""
    name, training = TEXTURES[0], TRAININGS[0]
    of, detector = tested_set(name), Utad(**settings_of(name, training, {}))
    detector.fit(of.data, FitRun(_folder(name, training, 0), 0, 0.05, "auto", None))
    with torch.no_grad():
        scores = torch.cat([detector.score(as_float(batch)).image for batch in of.test.split(64)])
    hottest = int(torch.where(torch.from_numpy(of.labels == 1), scores, -torch.inf).argmax())
    (told,) = build_explainer("reconstruction").explain(detector, as_float(of.test[hottest : hottest + 1]))
    sheet = Image.fromarray(told.images[-1].image.transpose(1, 2, 0))
    sheet.quantize(128, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)


def map_figures(detector: Utad, of: TestedSet) -> dict[str, float]:
    """AUROC of images, by the score, by both of its parts and by their sum, and of pixels; AUPRO."""
    maps, parts = [], {"map": [], "knn": []}  # type: ignore[var-annotated]
    with torch.no_grad():
        for batch in of.test.split(64):
            x, fitted = as_float(batch), detector.fitted
            seen = fitted.impress(x)
            e = fitted.combination.map(fitted.contributions(x, seen))
            for part, value in fitted.parts(seen, e).items():
                parts[part].append(value)
            if of.masks is not None:
                maps.append(e)
    parts["both"] = [one + other for one, other in zip(parts["map"], parts["knn"], strict=True)]
    found = {f"image_auroc_{name}": _auroc(value, of) for name, value in parts.items()}
    found["image_auroc"] = found["image_auroc_map"]  # the weights of the default score
    if of.masks is not None:
        heat = torch.cat(maps).float().numpy()
        found |= {"pixel_auroc": pixel_auroc(heat, of.masks), "aupro": aupro(heat, of.masks)}
    return {name: float(value) for name, value in found.items()}


def reconstruction_figures(detector: Utad, of: TestedSet, seed: int) -> dict[str, dict[str, float]]:
    """Fidelity, sharpness and leak of m, x_hat, x_rec (the copy) and m_hat on test normals, at most 200."""
    normals = of.test[torch.from_numpy(of.labels == 0)][:200]
    defective, masks = perlin(normals, seeded(seed, "bench utad"))
    x, y, inside = as_float(normals), as_float(defective), masks[:, None]
    clean, broken = _views(detector, x), _views(detector, y)
    change = (y - x) * inside
    return {
        name: {
            "fidelity": float((clean[name] - x).abs().mean()),
            "sharpness": _energy(clean[name]) / _energy(x),
            "leak": float(((broken[name] - clean[name]) * change).sum() / change.square().sum()),
            "missing_inside": float((broken[name] - y).abs()[inside.expand_as(y)].mean()),
        }
        for name in clean
    }


def _views(detector: Utad, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {"m": [], "x_hat": [], "x_rec": [], "m_hat": []}
    with torch.no_grad():
        for batch in x.split(64):
            told = detector.reconstructions(batch, 2)
            copy = detector.fitted.expert.copy(batch)
            views = {"m": told.impression, "x_hat": told.expert_mean, "x_rec": copy, "m_hat": told.naive_mean}
            for name, value in views.items():
                found[name].append(value)
    return {name: torch.cat(values) for name, values in found.items()}


def _energy(images: Tensor) -> float:
    rows, columns = images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]
    return float(rows.square().mean() + columns.square().mean())


def _auroc(values: list[Tensor], of: TestedSet) -> float:
    return float(auroc(torch.cat(values).double().numpy(), of.labels))


def summary(found: Measured, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """set -> training -> means over the seeds that were run, with every seed's value of the maps; and what
    is missing.
    """
    table: dict[str, Any] = {}
    for name in names:
        rows: dict[str, Any] = {}
        for title in BY_TITLE:
            runs = [found[name, title, seed] for seed in seeds if (name, title, seed) in found]
            if runs:
                first = runs[0]["maps"]
                rows[title] = {
                    "seeds": len(runs),
                    "steps": runs[0]["steps"],
                    "training_s": float(np.median([one["training_s"] for one in runs])),
                    "maps": {
                        of_map: {figure: [one["maps"][of_map][figure] for one in runs] for figure in values}
                        for of_map, values in first.items()
                    },
                    "reconstructions": averaged([one["reconstructions"] for one in runs]),
                }
        if rows:
            of = tested_set(name)
            table[name] = {
                "trainings": rows,
                "baselines": _baselines(of),
                "px": of.test.shape[-1],
                "test": len(of.test),
                "masks": of.masks is not None,
            }
    every = [(name, title, seed) for name in names for title in BY_TITLE for seed in seeds]
    return {
        "sets": table,
        "missing": [f"{name}, {title}, seed {seed}" for name, title, seed in every if (name, title, seed) not in found],
        "settings": {one.title: {"impression": dict(one.impression), "expert": dict(one.expert)} for one in TRAININGS},
        "target_minutes": 10,
    }


def _baselines(of: TestedSet) -> dict[str, float]:
    """Image AUROC of the mean grey value and of its spread, the better sign of each: what no training needs."""
    x = as_float(of.test).flatten(1).double()
    values = {"mean grey": x.mean(1).numpy(), "spread of grey": x.std(1).numpy()}
    return {name: max(auroc(value, of.labels), auroc(-value, of.labels)) for name, value in values.items()}


if __name__ == "__main__":
    main()
