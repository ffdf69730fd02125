"""What the product's own explainers make of real defects: `python -m benchmarks.counterfactuals_elpv_product
[--quick]`.

Data set `elpv` of params.yaml as it stands there (protocol, size, carving of val and gate), detector `fcdd`, generator
with the settings that `retrain` takes for it; where params.yaml trains none, as it comes, those of
docs/how-to/train-an-explainer.md, "Trained on pairs". The judge is a PaDiM that had no part: its trunk is another one,
and it is fitted on the half of the train normals that gives no donors and that no companion of the training is fitted
on. Baselines: transplant, nearest normal, autoencoder, the expert's image of `utad`. Each seed trains detector and
generator anew; judge, autoencoder and `utad` are one.

Explained are the first flagged test defects by image_id. A judge is asked of those alone whose original it flags.
Everything is kept in var/bench-counterfactuals-elpv-product and not made twice while settings and code are the same; a
training that was stopped goes on from its checkpoint. A sheet of pictures is written there and nowhere else: ELPV's
licence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks.counterfactuals_elpv_kit.product import (
    STUDY,
    autoencoder,
    bank_of,
    companion_rows,
    detector_of,
    expert,
    generator_of,
    judge_of,
    product_cells,
)
from benchmarks.counterfactuals_elpv_kit.product_judging import (
    GENERATOR,
    change_of_normals,
    figures_of,
    frechet_interval,
    share_interval,
)
from benchmarks.kit.baselines import nearest_normal, reconstructed
from benchmarks.kit.judging import scores_of, told
from benchmarks.kit.sheets import write_changes
from xadflow.detectors.base import Detector
from xadflow.explainers.transplant.explainer import TransplantExplainer
from xadflow.metrics.ranks import auroc
from xadflow.settings import Home, Settings, load_settings

SEEDS = (0, 1, 2)
PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "train-an-explainer.md"
IMAGES, NORMALS, QUICK_IMAGES, QUICK_STEPS, SHOWN = 200, 100, 24, 60, 10
DATASET, DETECTOR = "elpv", "fcdd"
Pixels = NDArray[np.uint8]


def main() -> None:
    """Make what is missing, judge it, print the table, write benchmarks/results/counterfactuals-elpv-product.json."""
    quick = STUDY.start(__doc__, f"one seed, {QUICK_IMAGES} defects, {QUICK_STEPS} steps").quick
    torch.set_num_threads(1)
    settings = load_settings(Home.find().params)
    seeds, count = (SEEDS[:1], QUICK_IMAGES) if quick else (SEEDS, IMAGES)
    given = generator_settings(settings)
    if quick:
        given |= {"steps": QUICK_STEPS, "pretrain": min(int(given.get("pretrain", 0)), QUICK_STEPS // 2)}
    cells = product_cells(settings, DATASET)
    judge = judge_of(cells)
    rows: dict[str, dict[str, Any]] = {}
    made: dict[str, dict[int, Pixels]] = {}
    explained: dict[int, Pixels] = {}
    trainings: dict[str, Any] = {}
    for seed in seeds:
        detector, folder = detector_of(settings, cells, DETECTOR, seed)
        originals = flagged(detector, cells.test[cells.labels == 1], count)
        quiet = cells.test[cells.labels == 0]
        quiet = quiet[scores_of(detector, quiet) <= detector.calibration.threshold][:NORMALS]
        generator, trainings[str(seed)] = generator_of(cells, detector, folder, given, seed)
        transplant = TransplantExplainer().with_donors(bank_of(detector, cells))
        makers: dict[str, Callable[[Pixels], Pixels]] = {
            GENERATOR: lambda images, of=detector, by=generator: told(by, of, images),
            "transplant": lambda images, of=detector, by=transplant: told(by, of, images),
            "nearest normal": lambda images, of=detector: nearest_normal(of, cells.donors, images),
            "autoencoder": lambda images: reconstructed(autoencoder(cells), images),
            "utad": lambda images: expert(settings, cells, images),
        }
        explained[seed] = originals
        for name, make in makers.items():
            one = make(originals)
            made.setdefault(name, {})[seed] = one
            found = figures_of(originals, one, detector, judge, quiet)
            found |= change_of_normals(make(quiet), quiet, one, originals)
            if name == GENERATOR:
                free = generator.anywhere()
                found |= {
                    f"{key}_anywhere": value
                    for key, value in change_of_normals(
                        told(free, detector, quiet), quiet, told(free, detector, originals), originals
                    ).items()
                }
            rows.setdefault(name, {})[str(seed)] = found
            STUDY.note(f"seed {seed}, {name}: {len(one)} defects")
    figures = {
        "settings": {
            "generator": given,
            "detector": settings.detector(DETECTOR).model_dump(mode="json"),
            "gate": settings.gate.generator.model_dump(mode="json"),
        },
        "judge": {
            "method": "padim",
            "auroc": auroc(scores_of(judge, cells.test), cells.labels),
            "normals": len(cells.judged),
        },
        "companions_normals": len(companion_rows(cells)),
        "images": {str(seed): len(explained[seed]) for seed in seeds},
        "trainings": trainings,
        "rows": rows,
        "intervals": {
            name: {
                "transfer": share_interval(judge, [(explained[seed], each[seed]) for seed in seeds]),
                "frechet": frechet_interval([(explained[seed], each[seed]) for seed in seeds], cells),
            }
            for name, each in made.items()
        },
    }
    STUDY.write(figures, seeds)
    first = seeds[0]
    columns = [made[name][first][:SHOWN, concept] for name in made for concept in range(made[name][first].shape[1])]
    write_changes(explained[first][:SHOWN], columns, STUDY.place / "sheet.png")


def generator_settings(settings: Settings) -> dict[str, Any]:
    """What params.yaml says of a generator for this detector; where it names none, the how-to's last block."""
    own = settings.retrain.explainers.get(GENERATOR, ())
    if any(DATASET in one.datasets and DETECTOR in one.detectors for one in own):
        return settings.explainer_for(GENERATOR, DATASET, DETECTOR)
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[-1])
    return {**settings.explainer(GENERATOR), **block["retrain"]["explainers"][GENERATOR][0]["settings"]}


def flagged(detector: Detector, defects: Pixels, count: int) -> Pixels:
    """The first `count` defects that the detector flags, in their order."""
    return defects[scores_of(detector, defects) > detector.calibration.threshold][:count]


if __name__ == "__main__":
    main()
