"""One class of MNIST or Fashion-MNIST as normal: images, detectors, generators and judges, each trained once and kept.

Splits and exposure are those of `python -m benchmarks.one_class`: the published train images of the class, a fifth of
them held out; digits against drawn letters, clothes against crops of photographs and game textures. The detectors are
those of `python -m benchmarks.counterfactuals`, which train in seconds, and not its neighbour's, which take minutes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.counterfactuals_kit.readers import Reader, trained_reader
from benchmarks.counterfactuals_kit.training import DETECTOR
from benchmarks.kit import models
from benchmarks.one_class import outliers_of, training_data
from benchmarks.study import Study
from xadflow.datasets.public.reading import read_raw
from xadflow.datasets.public.sets import SETS, RawImages
from xadflow.detectors import TrainingData
from xadflow.detectors.base import Detector
from xadflow.explainers.diverse.explainer import DiverseExplainer
from xadflow.explainers.diverse.settings import DiverseSettings
from xadflow.lineage import EXPLAINER_CODE
from xadflow.settings import Home

NORMAL = {"mnist": 2, "fashion-mnist": 3}
METHODS = ("bce", "hsc", "fcdd_conv", "dsvdd")
STEPS, QUICK_STEPS, DETECTOR_STEPS = 1000, 200, 400
# As bench-counterfactuals had it when these were trained (6 now); fcdd_conv has the form of hsc, and the same flat
# score near normal images.
FLAT = {"probability": "exponential", "score": 4.0}
FORMS: dict[str, dict[str, Any]] = {
    "bce": {"probability": "logit"},
    "hsc": FLAT,
    "fcdd_conv": FLAT,
    "dsvdd": {"probability": "exponential", "typical": "median"},
}
SECOND = {"method": "deep_sad", "network": "cnn32", "seed": 100}
STUDY = Study("counterfactuals-single", EXPLAINER_CODE, ("counterfactuals_single.py", "counterfactuals_kit", "kit"))
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Cell:
    """One row and seed of the table; `variant` is `full` or `baselines`."""

    set: str
    method: str
    variant: str
    seed: int
    steps: int = STEPS

    def __str__(self) -> str:
        return f"{self.set:<14} {self.method:<10} {self.variant:<10} seed {self.seed}"


@dataclass(frozen=True)
class Tested:
    """The published test images, uint8 [N,1,28,28], their classes, and which are normal."""

    images: Pixels
    labels: NDArray[np.int64]
    is_normal: NDArray[np.bool_]

    @property
    def normals(self) -> Pixels:
        """Of the class."""
        return self.images[self.is_normal]

    def anomalies(self, count: int) -> Pixels:
        """The first so many of the other nine classes."""
        return self.images[np.flatnonzero(~self.is_normal)[:count]]


@cache
def _raw(name: str) -> RawImages:
    return read_raw(Home.find(), name)


@cache
def tested(name: str) -> Tested:
    """Test images of a set."""
    raw = _raw(name)
    return Tested(raw.test[:, None].copy(), raw.test_labels.astype(np.int64), raw.test_labels == NORMAL[name])


@cache
def learnt(name: str) -> TrainingData:
    """What the detectors of a set learn from."""
    return training_data(_raw(name), NORMAL[name], outliers_of(Home.find(), name))


def class_name(name: str) -> str:
    """Of the normal class."""
    return SETS[name].classes[NORMAL[name]]


def reader(name: str) -> Reader:
    """Of all ten classes, trained on the published train images: no detector and no generator saw their labels."""

    def shown() -> tuple[Pixels, NDArray[np.int64]]:
        return _raw(name).train[:, None].copy(), _raw(name).train_labels.astype(np.int64)

    return trained_reader(STUDY.place / f"reader-{name}.pt", shown)


def detector_settings(name: str, method: str) -> dict[str, Any]:
    """As in bench-counterfactuals, what bench-one-class says of single methods, and for the second another network."""
    own = DETECTOR | {
        "min_steps": DETECTOR_STEPS,
        "flip": name != "mnist",
    }  # mirrored clothes are normal, digits are not
    if method == "dsvdd":  # shifted normals teach it to overlook a shift
        own |= {"learning_rate": 1e-3, "crop_px": 0}
    return own | {"learning_rate": 1e-3, "network": SECOND["network"]} if method == SECOND["method"] else own


def detector_folder(name: str, method: str, seed: int) -> Path:
    """The folder of one detector."""
    settings = detector_settings(name, method)
    return STUDY.trained(f"detector-{name}-{method}-{seed}", settings=settings, normal=NORMAL[name])


def kept_detector(name: str, method: str, seed: int) -> Detector:
    """Trained where it is not kept."""
    folder, settings = detector_folder(name, method, seed), detector_settings(name, method)
    return models.kept_detector(folder, method, settings, seed, lambda: learnt(name), "auto")


def second_detector(name: str) -> Detector:
    """A judge that explains nothing: another method, network and seed, the same train images and exposure."""
    return kept_detector(name, str(SECOND["method"]), int(SECOND["seed"]))


def generator_settings(cell: Cell) -> DiverseSettings:
    """Settings of the explainer `diverse` for a cell."""
    return DiverseSettings(**FORMS[cell.method], steps=cell.steps, seed=cell.seed, precision="bfloat16")


def generator_folder(cell: Cell) -> Path:
    """The folder of one generator."""
    settings, of = generator_settings(cell).model_dump(mode="json"), detector_folder(cell.set, cell.method, cell.seed)
    return STUDY.trained(f"generator-{cell.set}-{cell.method}-{cell.seed}", settings=settings, detector=of.name)


def generator(cell: Cell) -> DiverseExplainer:
    """The explainer of a cell, trained where it is not kept: on the train images of the class and the exposure."""
    kept_detector(cell.set, cell.method, cell.seed)
    return models.kept_generator(
        generator_folder(cell),
        detector_folder(cell.set, cell.method, cell.seed),
        generator_settings(cell).model_dump(mode="json"),
        lambda _: (learnt(cell.set).normals, learnt(cell.set).outliers),
    )


def anomaly_probability(cell: Cell, detector: Detector, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """phi of raw scores, the form that the generator is trained with."""
    return generator_settings(cell).anomaly_probability(detector).of(torch.from_numpy(scores)).numpy()


def described() -> dict[str, Any]:
    """Settings for the results file."""
    sizes = {
        name: {"train": len(data.normals), "held_out": len(data.val_normals), "exposure": len(data.outliers)}
        for name in NORMAL
        for data in [learnt(name)]
    }
    return {
        "normal": {name: class_name(name) for name in NORMAL},
        "forms": FORMS,
        "second": SECOND,
        "sizes": sizes,
        "detectors": {
            name: {method: detector_settings(name, method) for method in (*METHODS, str(SECOND["method"]))}
            for name in NORMAL
        },
        "full": generator_settings(Cell("mnist", "bce", "full", 0)).model_dump(mode="json"),
        "example": asdict(Cell("mnist", "bce", "full", 0)),
    }
