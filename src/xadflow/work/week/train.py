"""Train one detector on one data set, into a folder named after everything that decides the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xadflow.digests import sha256_file, sha256_json
from xadflow.errors import BadManifest
from xadflow.lineage import DETECTOR_CODE, code_digest, dvc_hashes
from xadflow.settings import DetectorSettings, Home, Settings

if TYPE_CHECKING:
    from xadflow.detectors import FitRun, TrainingData

REPORT = "fit.json"

Update = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class TrainingOrder:
    """One training: what, from which data. `key` digests data, settings, seed and the code that trains.

    `normals` are image_ids of the train normals to learn from, None for all of them.
    """

    dataset: str
    detector: str
    method: str
    settings: Mapping[str, Any]
    seed: int
    false_alarm_rate: float
    data_md5: str
    key: str
    normals: frozenset[str] | None = None

    @property
    def model_name(self) -> str:
        """Name in the registry: xad.<dataset>.<detector>."""
        return f"xad.{self.dataset}.{self.detector}"

    def folder(self, home: Home) -> Path:
        """Where the training's checkpoint, report and saved detector are."""
        return home.runs / "train" / self.key

    def saved(self, home: Home) -> Path:
        """Folder of the saved detector."""
        return self.folder(home) / "detector"

    def is_done(self, home: Home) -> bool:
        """Whether the training has ended and its files are there."""
        return (self.folder(home) / REPORT).is_file() and (self.saved(home) / "detector.json").is_file()


def training_order(
    home: Home, settings: Settings, dataset: str, detector: str, seed: int | None = None
) -> TrainingOrder:
    """Everything that decides a training, read once; `seed` None is the project's.

    Raises BadManifest when the data set has not been built.
    """
    return order_for(home, settings, dataset, detector, settings.detector(detector), seed)


def order_for(
    home: Home, settings: Settings, dataset: str, name: str, chosen: DetectorSettings, seed: int | None = None
) -> TrainingOrder:
    """As :func:`training_order`, of method and settings that need not stand under `detectors` in params.yaml."""
    chosen_seed = settings.seed if seed is None else seed
    data = dvc_hashes(home.project, dataset)
    if "manifest" not in data:
        raise BadManifest(
            "the data set has not been built by DVC", seen=dataset, next_step=f"run `dvc repro validate@{dataset}`"
        )
    outliers = settings.dataset(dataset).outliers
    foreign = dvc_hashes(home.project, outliers) if outliers else {}
    if outliers and "manifest" not in foreign:
        raise BadManifest(
            "the data set of outliers has not been built by DVC",
            seen=outliers,
            next_step=f"run `dvc repro validate@{outliers}`",
        )
    weights = _weights_of(home.project, chosen.settings)
    decides = {
        "data": data,
        **({"weights": weights} if weights else {}),
        **({"outliers": foreign} if outliers else {}),
        "dataset": settings.dataset(dataset).model_dump(mode="json", exclude={"judge"}),
        "method": chosen.method,
        "settings": chosen.settings,
        "seed": chosen_seed,
        "calibration": settings.calibration.model_dump(mode="json"),
        "code": code_digest(*DETECTOR_CODE),
    }
    return TrainingOrder(
        dataset=dataset,
        detector=name,
        method=chosen.method,
        settings=chosen.settings,
        seed=chosen_seed,
        false_alarm_rate=settings.calibration.false_alarm_rate,
        data_md5=data["manifest"],
        key=sha256_json(decides)[:32],
    )


def _weights_of(project: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Digest of every file of weights that settings name, blocks within them included: another file is another
    training.
    """
    found: dict[str, str] = {}
    for value in settings.values():
        if isinstance(value, Mapping):
            found |= _weights_of(project, value)
        elif isinstance(value, str) and value.endswith(".safetensors"):
            path = project / value
            found[value] = sha256_file(path) if path.is_file() else ""  # the detector says what is wrong with it
    return found


def earlier_stages(settings: Settings, detector: str) -> list[str]:
    """Stages of a detector's training that are work of their own before :func:`train_detector`; most have none."""
    from xadflow.detectors.base import training_stages  # brings torch in

    return list(training_stages(settings.detector(detector).method)[:-1])


def train_stage(home: Home, settings: Settings, order: TrainingOrder, stage: str, update: Update | None = None) -> Path:
    """Train one detector up to a stage; returns the folder of its checkpoints, from which the next stage goes on."""
    if not order.is_done(home):
        from xadflow.detectors.base import Staged, build_detector

        data, run = _work(home, settings, order, update)
        detector = build_detector(order.method, **order.settings)
        assert isinstance(detector, Staged)
        detector.fit_stage(stage, data, run)
    return order.folder(home)


def train_detector(home: Home, settings: Settings, order: TrainingOrder, update: Update | None = None) -> Path:
    """Train, calibrate and save; returns the folder of the saved detector. Goes on from a checkpoint after a kill."""
    if order.is_done(home):
        return order.saved(home)
    from xadflow.detectors import build_detector

    data, run = _work(home, settings, order, update)
    detector = build_detector(order.method, **order.settings)
    report = detector.fit(data, run)
    detector.save(order.saved(home))
    (order.folder(home) / REPORT).write_text(json.dumps(asdict(report)))  # last: it says that the training has ended
    return order.saved(home)


def _work(home: Home, settings: Settings, order: TrainingOrder, update: Update | None) -> tuple[TrainingData, FitRun]:
    """The images, and where and how to train on them; makes the folder."""
    from xadflow.datasets.loading import training_data
    from xadflow.datasets.manifest import read_manifest
    from xadflow.detectors import FitRun
    from xadflow.detectors.base import detector_class, traits

    folder = order.folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(home.dataset(order.dataset))
    dataset = settings.dataset(order.dataset)
    needed = dataset.outliers if traits(detector_class(order.method)).learns_from_outliers else None
    outliers = read_manifest(home.dataset(needed)) if needed else None
    run = FitRun(
        folder=folder, seed=order.seed, false_alarm_rate=order.false_alarm_rate, device=settings.device, progress=update
    )
    return training_data(manifest, dataset, outliers=outliers, normals=order.normals), run
