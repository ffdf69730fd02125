"""Everything that decides a training, read once, and the folder that is named after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from xadflow.datasets.manifest import Split, read_manifest
from xadflow.digests import sha256_file, sha256_json
from xadflow.errors import BadManifest, WrongUse
from xadflow.explainers import needs_training
from xadflow.lineage import DETECTOR_CODE, GENERATOR_CODE, code_digest, dvc_hashes
from xadflow.models.judges.choice import judge_choice
from xadflow.models.judges.halves import donor_half
from xadflow.models.judges.panel import JUDGE
from xadflow.models.versions import ModelRef, Part
from xadflow.project import Project
from xadflow.settings import DetectorSettings, Home
from xadflow.training.run import SAMPLES

REPORT = "fit.json"
TILED = "tiled"
_LATER = ("tile_px", "overlap_px")  # settings that came later: without them the keys are those of before


class Order(ABC):
    """What the orders of detectors, judges and explainers share. `key` digests data, settings, seed and code."""

    part: ClassVar[Part]
    dataset: str
    settings: Mapping[str, Any]
    data_md5: str
    key: str

    @property
    @abstractmethod
    def model_name(self) -> str:
        """Name in the registry."""

    @property
    def registered_key(self) -> str:
        """Key by which a registered version of this training is found again."""
        return self.key

    def folder(self, home: Home) -> Path:
        """Where the training's checkpoint, report and what it saved are."""
        return home.runs / "train" / self.key

    def saved(self, home: Home) -> Path:
        """Folder of the saved detector or explainer."""
        return self.folder(home) / self.part

    def samples(self, home: Home) -> dict[str, Path]:
        """Sheets that were written while it was trained, by name."""
        return {f"{SAMPLES}-{path.stem}": path for path in sorted((self.folder(home) / SAMPLES).glob("*.png"))}

    def is_done(self, home: Home) -> bool:
        """Whether the training has ended and its files are there."""
        return (self.folder(home) / REPORT).is_file() and (self.saved(home) / f"{self.part}.json").is_file()


@dataclass(frozen=True)
class TrainingOrder(Order):
    """One training of a detector; `normals` are image_ids of the train normals to learn from, None for all of them."""

    part = "detector"
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


@dataclass(frozen=True)
class ExplainerOrder(Order):
    """One training of an explainer; `detector` is whom it explains, and its files decide as well."""

    part = "explainer"
    dataset: str
    explainer: str
    settings: Mapping[str, Any]
    detector: ModelRef
    data_md5: str
    key: str

    @property
    def model_name(self) -> str:
        """Name in the registry: xad.<dataset>.<detector>.<explainer>."""
        return f"{self.detector.name}.{self.explainer}"

    @property
    def registered_key(self) -> str:
        """The same generator is registered for each detector version with these files."""
        return f"{self.key}-{self.detector.version}"


def training_order(project: Project, dataset: str, detector: str, seed: int | None = None) -> TrainingOrder:
    """The training of a detector of params.yaml; `seed` None is the project's.

    Raises BadManifest when the data set, or that of its outliers, has not been built.
    """
    return _detector_order(project, dataset, detector, project.settings.detector(detector), seed)


def judge_order(project: Project, dataset: str) -> TrainingOrder | None:
    """The training of a data set's judge, None for one without. Raises BadManifest when the data set is not built."""
    chosen = judge_choice(project.settings, dataset)
    if chosen is None:
        return None
    order = _detector_order(project, dataset, JUDGE, chosen)
    half = donor_half(read_manifest(project.home.dataset(dataset)).rows(Split.TRAIN, label=0))
    normals = frozenset(row.image_id for row in half.judged)
    key = sha256_json({"judge": order.key, "normals": sorted(normals), "code": code_digest("models/judges")})[:32]
    return replace(order, normals=normals, key=key)


def explainer_order(project: Project, dataset: str, detector: ModelRef, explainer: str) -> ExplainerOrder:
    """The training of an explainer for a registered detector version.

    Raises:
        UnknownName: no such data set or explainer.
        WrongUse: an explainer that is not trained.
        BadManifest: the data set, or that of its outliers, has not been built.
    """
    given = project.settings.explainer_for(explainer, dataset, detector.name.removeprefix(f"xad.{dataset}."))
    if not needs_training(explainer):
        raise WrongUse(
            "this explainer is not trained for a detector",
            seen=explainer,
            next_step="name it under explain.explainers in params.yaml, not under retrain.explainers",
        )
    data, outliers = _data(project, dataset)
    decides = {
        "detector": detector.files,
        "data": {dataset: data, **outliers},
        "dataset": _deciding(project, dataset),
        "explainer": explainer,
        "settings": given,
        "code": code_digest(*GENERATOR_CODE),
    }
    return ExplainerOrder(dataset, explainer, given, detector, data["manifest"], sha256_json(decides)[:32])


def _detector_order(
    project: Project, dataset: str, name: str, chosen: DetectorSettings, seed: int | None = None
) -> TrainingOrder:
    rate, chosen = project.settings.false_alarm_rate(dataset), _by_windows(project, dataset, chosen)
    chosen_seed = project.settings.seed if seed is None else seed
    data, outliers = _data(project, dataset)
    weights = _weights_of(project.home.project, chosen.settings)
    decides = {
        "data": data,
        **({"weights": weights} if weights else {}),
        **({"outliers": next(iter(outliers.values()))} if outliers else {}),
        "dataset": _deciding(project, dataset),
        "method": chosen.method,
        "settings": chosen.settings,
        "seed": chosen_seed,
        "calibration": {**project.settings.calibration.model_dump(mode="json"), "false_alarm_rate": rate},
        "code": code_digest(*DETECTOR_CODE),
    }
    return TrainingOrder(
        dataset=dataset,
        detector=name,
        method=chosen.method,
        settings=chosen.settings,
        seed=chosen_seed,
        false_alarm_rate=rate,
        data_md5=data["manifest"],
        key=sha256_json(decides)[:32],
    )


def _by_windows(project: Project, dataset: str, chosen: DetectorSettings) -> DetectorSettings:
    """The detector as it is; where the data set has `tile_px`, one that looks through it at each window of an image."""
    its = project.settings.dataset(dataset)
    if its.tile_px is None or chosen.method == TILED:
        return chosen
    stated = {"inner": chosen.method, "inner_settings": chosen.settings}
    return DetectorSettings(method=TILED, settings={**stated, "tile_px": its.tile_px, "overlap_px": its.overlap})


def _data(project: Project, dataset: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """DVC's hashes of a data set, and by name those of its outliers' if it has any. Raises BadManifest."""
    found: list[dict[str, str]] = []
    outliers = project.settings.dataset(dataset).outliers
    for name, what in ((dataset, "data set"), (outliers, "data set of outliers")):
        if name:
            found.append(dvc_hashes(project.home.project, name))
            if "manifest" not in found[-1]:
                raise BadManifest(
                    f"the {what} has not been built by DVC", seen=name, next_step=f"run `dvc repro validate@{name}`"
                )
    return found[0], {outliers: found[1]} if outliers else {}


def _deciding(project: Project, dataset: str) -> dict[str, Any]:
    """Settings of a data set that decide a training: its judge has no part in one, its false-alarm rate stands for
    itself.
    """
    found = project.settings.dataset(dataset).model_dump(mode="json", exclude={"judge", "false_alarm_rate"})
    return {key: value for key, value in found.items() if key not in _LATER or value is not None}


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
