"""The Clever-Hans experiment with numbers: `python -m benchmarks.probe [--quick]`.

A watermark is planted on a share of the anomalous training images, FCDD and its sibling HSC are trained, and the heat
inside the mark and three AUROCs are measured (definitions: xadflow.work.probe.verdict). Two data sets: Fashion-MNIST
dresses with MNIST digits as outliers, which get the mark; and crops of a photographed brick wall, where 160 defects
drawn beforehand get it. Both detectors are trained briefly on a small network (CASES): this measures the shortcut, not
how well they detect. Digits alone were added after a trial with the default mix of digits and synthetic defects had
shown little; both are reported. Both data sets have to be built: `xadflow data fetch`, then `dvc repro validate@...`.
Trainings are kept in var/probe/.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study import Study
from xadflow.progress import progress_board, track
from xadflow.project import Project
from xadflow.settings import Settings, quiet_environment
from xadflow.work.probe import ProbePlan, run_probe

PARTS = "dataset detector side seeds settings mark test rates alarm least notes".split()
DETECTORS = ("fcdd_conv", "hsc")
SHORT: dict[str, object] = {"network": "cnn28", "epochs": 0.01}
RATES = (0.0, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Case:
    """One data set and what its anomalies are; both detectors are probed on it. `outliers` in the place of its own."""

    title: str
    dataset: str
    settings: dict[str, object]
    outliers: str | None = None
    rates: tuple[float, ...] = RATES
    seeds: tuple[int, ...] = (0,)
    pictures: tuple[str, ...] = ()  # of these detectors, for the docs


CASES = (
    Case(
        "Fashion-MNIST dresses, MNIST digits as outliers alone",
        "fashion-mnist-3",
        {**SHORT, "min_steps": 400, "batch_size": 64, "anomalies": ["outliers"]},
        "mnist-any",
        seeds=(0, 1, 2),
        pictures=("hsc",),
    ),
    Case(
        "Fashion-MNIST dresses, digits and synthetic defects (the default)",
        "fashion-mnist-3",
        {**SHORT, "min_steps": 400, "batch_size": 64},
        "mnist-any",
        rates=(0.0, 1.0),
    ),
    Case(
        "brick, defects drawn beforehand and synthetic ones",
        "textures-brick",
        {**SHORT, "min_steps": 200, "batch_size": 32},
        rates=(0.0, 0.5, 1.0),
        pictures=("fcdd_conv",),
    ),
)
PICTURES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    """Run everything and write benchmarks/results/probe.json (probe-quick.json with --quick)."""
    study = Study("probe")
    quick = study.start(__doc__, "rates 0 and 1, one seed, 100 test images of each class").quick
    project = Project.open()
    quiet_environment(project.home)
    figures: dict[str, Any] = {}
    for case in CASES:
        probed = Project(project.home, _with_outliers(project.settings, case))
        for detector in DETECTORS:
            rates, seeds, most = ((0.0, 1.0), case.seeds[:1], 100) if quick else (case.rates, case.seeds, None)
            plan = ProbePlan(
                case.dataset, detector, rates=rates, seeds=seeds, settings=case.settings, most_test_images=most
            )
            with progress_board():
                outcome = run_probe(probed, plan, track)
            study.note(f"{case.title}, {detector}: {outcome.trained} trained")
            figures[f"{case.title}: {detector}"] = {name: outcome.report[name] for name in PARTS}
            if detector in case.pictures and not quick:
                PICTURES.mkdir(parents=True, exist_ok=True)
                shutil.copy(outcome.folder / "probe.png", PICTURES / f"probe-{case.dataset}-{detector}.png")
    seconds = sum(row["training_seconds"] for one in figures.values() for row in one["rates"])
    study.write(figures, sorted({seed for one in figures.values() for seed in one["seeds"]}), seconds)


def _with_outliers(settings: Settings, case: Case) -> Settings:
    if case.outliers is None:
        return settings
    dataset = settings.dataset(case.dataset).model_copy(update={"outliers": case.outliers})
    return settings.model_copy(update={"datasets": {**settings.datasets, case.dataset: dataset}})


if __name__ == "__main__":
    main()
