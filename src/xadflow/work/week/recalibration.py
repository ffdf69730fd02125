"""Recalibrate a registered detector to another false-alarm rate, without training: a new version with the same weights.

The threshold is fitted anew on the raw scores of held-out normals that are saved with the version, the temperature on
defects that are scored again. The new version is measured, registered and gated as a trained one is, and knows which
version it comes from.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from xadflow.calibration import Calibration, threshold_at
from xadflow.cards import read_card
from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import Split, read_manifest
from xadflow.detectors.base import CARD, FitReport, FitRun, TrainingData, load_detector
from xadflow.detectors.calibrated import CalibratedDetector
from xadflow.detectors.scoring import open_detector
from xadflow.digests import sha256_json
from xadflow.errors import TooFewNormals, WrongUse
from xadflow.explainers.transplant import bank
from xadflow.lineage import dvc_hashes
from xadflow.models.service import Moved
from xadflow.models.tags import DATA_MD5, TRAINING_KEY
from xadflow.models.versions import ModelRef, dataset_of
from xadflow.progress import track
from xadflow.project import Project
from xadflow.work.week.gate import GateOutcome, judge_challenger, rate_line, settle
from xadflow.work.week.order import REPORT, TrainingOrder, training_order
from xadflow.work.week.register import register_trained


@dataclass(frozen=True)
class Recalibrated:
    """What became of it: the new version and the one it comes from, their calibrations, and what the gate said.

    `moved` is what is in service now, None where the gate let nothing move. `line` is what params.yaml needs for the
    next training to have this rate too, None where it says so already.
    """

    ref: ModelRef
    source: ModelRef
    before: Calibration
    after: Calibration
    outcome: GateOutcome
    moved: Moved | None
    line: str | None


def recalibrate(project: Project, spec: str, rate: float) -> Recalibrated:
    """Make a version of a detector whose threshold lets `rate` of new normals be flagged, and ask the gate.

    `spec` is a model's name, of its champion then, or name@alias or name/3. A version that has this rate, data and
    weights already is found and gated, not made again. Where nothing else has changed since the training, the new
    version is the one that `retrain` finds once params.yaml states the rate, and nothing is trained again.

    Raises:
        WrongUse: an explainer, a judge, or the rate that the version has; a detector that calibrates itself.
        TooFewNormals: the version has too few held-out normals for the rate.
        NoChampion, UnknownName: no such version. BadWeights: it cannot be loaded.
        BadManifest, BadImage: the data set cannot be read.
    """
    registry = project.registry
    named = "@" in spec or "/" in spec
    if not named:
        _check_kind(ModelRef(spec, 0, ""))  # a judge has no champion to look for
    source = registry.resolve(spec) if named else registry.champion(spec)
    _check_kind(source)
    folder = registry.detector_folder(source)
    before = load_detector(folder).calibration
    _check_rate(source, before, rate)
    dataset = dataset_of(source.name)
    order = recalibration_order(project, source, before.false_alarm_rate, rate)
    _check_data(project, source, folder, rate)
    if not order.is_done(project.home):
        with track(f"calibrate {source.name} version {source.version} anew"):
            _refit(project, source, folder, order)
    with track(f"measure and register it at {rate:g}"):
        ref = register_trained(project, order, source)
    with track(f"gate {ref.name} version {ref.version}"):
        outcome = judge_challenger(project, dataset, ref, hold=True)
    moved = settle(registry, ref.name, ref.version, ref.version if outcome.passed else None, outcome.key)
    after = load_detector(registry.detector_folder(ref)).calibration
    stated = project.settings.false_alarm_rate(dataset) == rate
    return Recalibrated(ref, source, before, after, outcome, moved, None if stated else rate_line(dataset, rate))


def recalibration_order(project: Project, source: ModelRef, old: float, rate: float) -> TrainingOrder:
    """The training that would give this version: that of params.yaml at this rate, if it gave `source` at the old one.

    Else one of its own, which says of what files and at which rate, and which no settings ask for.
    """
    dataset, params = dataset_of(source.name), project.registry.params(source)
    name = source.name.removeprefix(f"xad.{dataset}.")
    seed = int(params.get("seed", project.settings.seed))
    if name in project.settings.detectors:
        known = training_order(_at(project, dataset, old), dataset, name, seed)
        if known.key == source.tags.get(TRAINING_KEY):
            return training_order(_at(project, dataset, rate), dataset, name, seed)
    start = "settings."
    return TrainingOrder(
        dataset=dataset,
        detector=name,
        method=params.get("method", name),
        settings={key.removeprefix(start): value for key, value in params.items() if key.startswith(start)},
        seed=seed,
        false_alarm_rate=rate,
        data_md5=source.tags.get(DATA_MD5, ""),
        key=sha256_json({"recalibrated": source.files, "false_alarm_rate": rate})[:32],
    )


def _refit(project: Project, source: ModelRef, folder: Path, order: TrainingOrder) -> None:
    """Write the detector's files at the new rate into the order's folder, as its training would leave them.

    Held-out normals keep the scores that the version was registered with, so that its weights file is the same.
    """
    started, saved = time.monotonic(), order.saved(project.home)
    detector = open_detector(folder, project.device)
    if not isinstance(detector, CalibratedDetector):
        raise _calibrates_itself(source, order)
    run = FitRun(saved.parent, order.seed, order.false_alarm_rate, project.settings.device)
    data = _held_out(project, order.dataset, int(project.registry.params(source).get("dataset.known_used", "-1")))
    fitted = detector.calibrated(data, run, project.settings.explain.batch_of(detector.input_shape))
    scores = detector.calibration.normal_scores
    fitted = replace(fitted, threshold=threshold_at(scores, order.false_alarm_rate), normal_scores=scores)
    error = fitted.calibration_error
    card = read_card(folder / CARD)
    card["calibration"] = {
        "threshold": fitted.threshold,
        "temperature": fitted.temperature,
        "false_alarm_rate": fitted.false_alarm_rate,
        "calibration_error": None if math.isnan(error) else error,
        "defects_used": fitted.defects_used,
    }
    partial = saved.with_name("recalibrated")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(bank.CARD, bank.MAPS))  # chosen anew
    (partial / CARD).write_text(json.dumps(card, sort_keys=True, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if load_detector(partial).calibration.threshold != fitted.threshold:
        raise _calibrates_itself(source, order)
    shutil.rmtree(saved, ignore_errors=True)
    partial.rename(saved)
    report = FitReport(time.monotonic() - started, 0, 0, figures={"calibration_error": error})
    (saved.parent / REPORT).write_text(json.dumps(asdict(report)))  # last: it says that the files are whole


def _held_out(project: Project, dataset: str, known_used: int) -> TrainingData:
    """What a calibration looks at: val normals, and the known defects that no training used; nothing to learn from."""
    manifest, chosen = read_manifest(project.home.dataset(dataset)), project.settings.dataset(dataset)
    normals = manifest.rows(Split.VAL, label=0)
    others = manifest.rows(Split.KNOWN, label=1)[chosen.known_used if known_used < 0 else known_used :]
    images = load_images(manifest, [*normals, *others], chosen)
    return TrainingData(
        normals=images[:0],
        val_normals=images[: len(normals)],
        known=images[:0],
        known_masks=None,
        calibration_defects=images[len(normals) :],
        outliers=torch.zeros_like(images[:0]),
    )


def _at(project: Project, dataset: str, rate: float) -> Project:
    """The project as if params.yaml stated this rate for the data set."""
    changed = project.settings.dataset(dataset).model_copy(update={"false_alarm_rate": rate})
    datasets = {**project.settings.datasets, dataset: changed}
    return Project(project.home, project.settings.model_copy(update={"datasets": datasets}))


def _check_kind(source: ModelRef) -> None:
    if source.explains is not None or source.is_judge:
        raise WrongUse(
            "only a detector has a false-alarm rate of its own",
            seen=f"{source.name} is {'a judge' if source.is_judge else 'an explainer'}",
            next_step="name a detector; `xadflow models list` shows them",
        )


def _check_rate(source: ModelRef, its: Calibration, rate: float) -> None:
    normals, what = its.normal_scores.size, f"{source.name} version {source.version}"
    if rate == its.false_alarm_rate:
        raise WrongUse(
            f"{what} has this false-alarm rate already",
            seen=f"{rate:g}",
            next_step="give another rate; `xadflow models list` shows those of all versions",
        )
    if (normals + 1) * rate < 1.0 - 1e-9:
        least = math.ceil(10_000 / (normals + 1)) / 10_000
        raise TooFewNormals(
            f"a false-alarm rate of {rate:g} needs at least {math.ceil(round(1.0 / rate, 9)) - 1} held-out normals",
            seen=f"{normals} of {what}",
            next_step=f"give --false-alarm-rate {least:g} or more, or add images to train/good and run "
            f"`xadflow retrain --dataset {dataset_of(source.name)}`",
        )


def _check_data(project: Project, source: ModelRef, folder: Path, rate: float) -> None:
    """See that the held-out normals of the data set are those of the version. Raises WrongUse."""
    dataset = dataset_of(source.name)
    own = project.settings.dataset(dataset)
    now = dvc_hashes(project.home.project, dataset).get("manifest", "no manifest in dvc.lock")
    shape = [own.channels, *own.shape_px]
    seen = read_card(folder / CARD).get("input_shape", shape)
    odd = f"manifest {now[:8]}, was {source.tags.get(DATA_MD5, '')[:8]}" if now != source.tags.get(DATA_MD5) else ""
    odd = f"images of shape {shape}, was {seen}" if not odd and seen != shape else odd
    if odd:
        raise WrongUse(
            f"data set {dataset!r} is not the one that {source.name} version {source.version} was trained on, so that "
            "its val normals may be such that it has learned from",
            seen=odd,
            next_step=f"put {rate_line(dataset, rate)} and run `xadflow retrain --dataset {dataset}`",
        )


def _calibrates_itself(source: ModelRef, order: TrainingOrder) -> WrongUse:
    return WrongUse(
        f"the method of {source.name} calibrates itself, and cannot be given another threshold",
        seen=order.method,
        next_step=f"put {rate_line(order.dataset, order.false_alarm_rate)} and run "
        f"`xadflow retrain --dataset {order.dataset}`",
    )
