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
came from ELPV (utad-recipe.md).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.results import write_results
from benchmarks.textures import TEXTURES
from benchmarks.utad_sets import CLOTHES, NAMES, TestedSet, tested_set
from xadflow.defects.perlin import perlin
from xadflow.detectors import FitRun, as_float
from xadflow.detectors.utad.detector import Utad
from xadflow.digests import sha256_file, sha256_json
from xadflow.explainers import build_explainer
from xadflow.lineage import code_digest
from xadflow.metrics.localisation import aupro, pixel_auroc
from xadflow.metrics.ranks import auroc
from xadflow.settings import Home
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
CODE = (
    "detectors/utad",
    "detectors/calibrated.py",
    "networks",
    "training",
    "defects/drawn.py",
    "defects/perlin.py",
    "datasets/sources/textures.py",
    "metrics/localisation.py",
)


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


def main() -> None:
    """Measure what is missing, then write benchmarks/results/utad.json of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="brick, one seed")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="SET", help=f"measure these only, of {', '.join(NAMES)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="measure these only; default: 0 1 2")
    parser.add_argument(
        "--sheet", type=Path, help="draw brick's hottest anomaly as the explainer shows it, and nothing else"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after so many minutes")
    arguments = parser.parse_args()
    if arguments.sheet:
        draw_sheet(arguments.sheet, Home.find().state / "bench-utad")
        return
    seeds = (0,) if arguments.quick else SEEDS
    names = TEXTURES[:1] if arguments.quick else NAMES
    state, started = Home.find().state / "bench-utad", time.monotonic()
    cells = [(name, training, seed) for seed in seeds for name in names for training in TRAININGS]
    for name, training, seed in cells:
        kept = _kept(state, name, training, seed)
        wanted = seed in arguments.seeds and (not arguments.only or name in arguments.only)
        if not wanted or kept.is_file() or time.monotonic() - started > 60 * arguments.minutes:
            continue
        found = measured(tested_set(name), name, training, seed, _folder(state, name, training, seed))
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        partial.replace(kept)
        first = next(iter(found["maps"].values()))
        print(
            f"{time.monotonic() - started:6.0f} s  {name:<20} seed {seed}  {training.title:<16} trained in "
            f"{found['training_s']:.0f} s  image {first['image_auroc']:.3f}",
            flush=True,
        )
    figures = summary(state, names, seeds)
    spent = sum(
        json.loads(kept.read_text())["seconds"]
        for name, training, seed in cells
        if (kept := _kept(state, name, training, seed)).is_file()
    )
    path = write_results("utad", figures, seeds=seeds, seconds=spent, quick=arguments.quick)
    print(f"written to benchmarks/results/{path.name}; not run: {len(figures['missing'])} of {len(cells)} cells")


def _kept(state: Path, name: str, training: Training, seed: int) -> Path:
    what = {"training": asdict(training), "code": code_digest(*CODE), "bench": sha256_file(Path(__file__))}
    return state / f"{name}-{seed}-{training.title.replace(' ', '-')}-{sha256_json(what)[:12]}.json"


def _folder(state: Path, name: str, training: Training, seed: int) -> Path:
    """Where checkpoints are: another map, or another way to measure, trains nothing anew."""
    what = {"settings": settings_of(name, training, {}), "code": code_digest(*CODE)}
    return state / f"{name}-{seed}-{training.title.replace(' ', '-')}-{sha256_json(what)[:12]}"


def settings_of(name: str, training: Training, of_map: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a detector."""
    flips = CLOTHES_ONLY if name == CLOTHES else {}
    return {
        "impression": {**training.impression, **flips},
        "expert": {**training.expert, **flips},
        "map": dict(of_map),
        "sheets": 0,
    }


def measured(of: TestedSet, name: str, training: Training, seed: int, folder: Path) -> dict[str, Any]:
    """Figures of one cell; checkpoints are in `folder`."""
    begun = time.monotonic()
    found: dict[str, Any] = {"maps": {}}
    first, *others = training.maps
    detector = Utad(**settings_of(name, training, training.maps[first]))
    report = detector.fit(of.data, FitRun(folder, seed, 0.05, "auto", None))
    found |= {"training_s": report.figures["training_s"], "steps": report.steps, "resumed_from": report.resumed_from}
    found["reconstructions"] = reconstruction_figures(detector, of, seed)
    found["maps"] = {first: map_figures(detector, of)}
    for title in others:
        other = Utad(**settings_of(name, training, training.maps[title]))
        other.take(detector, of.data, seed)
        found["maps"][title] = map_figures(other, of)
    return {**found, "seconds": time.monotonic() - begun}


def draw_sheet(path: Path, state: Path) -> None:
    """The contact sheet of docs/images, of brick's training with seed 0."""
    name, training = TEXTURES[0], TRAININGS[0]
    of, detector = tested_set(name), Utad(**settings_of(name, training, {}))
    detector.fit(of.data, FitRun(_folder(state, name, training, 0), 0, 0.05, "auto", None))
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


def summary(state: Path, names: tuple[str, ...], seeds: tuple[int, ...]) -> dict[str, Any]:
    """set -> training -> means over the seeds that were run, with every seed's value of the maps; and what
    is missing.
    """
    table: dict[str, Any] = {}
    missing: list[str] = []
    for name in names:
        rows: dict[str, Any] = {}
        for training in TRAININGS:
            kept = {seed: _kept(state, name, training, seed) for seed in seeds}
            runs = [json.loads(path.read_text()) for path in kept.values() if path.is_file()]
            missing += [f"{name}, {training.title}, seed {seed}" for seed, path in kept.items() if not path.is_file()]
            if runs:
                seconds = float(np.median([one["training_s"] for one in runs]))
                rows[training.title] = {
                    "seeds": len(runs),
                    "steps": runs[0]["steps"],
                    "training_s": seconds,
                    "maps": {
                        title: {
                            figure: [one["maps"][title][figure] for one in runs] for figure in runs[0]["maps"][title]
                        }
                        for title in training.maps
                    },
                    "reconstructions": {
                        view: {
                            figure: float(np.mean([one["reconstructions"][view][figure] for one in runs]))
                            for figure in values
                        }
                        for view, values in runs[0]["reconstructions"].items()
                    },
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
    return {
        "sets": table,
        "missing": missing,
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
