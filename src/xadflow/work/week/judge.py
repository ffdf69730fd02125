"""Fit the judge of a data set and register it: never gated, never champion, asked about other detectors'
counterfactuals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import Manifest, Split, read_manifest
from xadflow.detectors.base import WEIGHTS, Detector
from xadflow.detectors.scoring import open_detector, score_images
from xadflow.digests import sha256_file, sha256_json
from xadflow.lineage import code_digest, dvc_hashes, git_commit, library_versions
from xadflow.models.judges.choice import judge_choice
from xadflow.models.judges.halves import donor_half
from xadflow.models.judges.panel import JUDGE
from xadflow.models.registry import Registry
from xadflow.models.tags import DATA_MD5, JUDGE_APART, TRAINING_KEY, WEIGHTS_SHA256
from xadflow.models.versions import ModelRef
from xadflow.pictures.plots import score_histogram
from xadflow.settings import Home, Settings
from xadflow.work.week.evaluate import flat
from xadflow.work.week.train import REPORT, TrainingOrder, Update, order_for, train_detector


@dataclass(frozen=True)
class FittedJudge:
    """The version that is asked from now on; `fitted`: this call made it. `apart`: no donor was fitted on."""

    model_name: str
    version: int
    fitted: bool
    apart: bool


def fit_judge(
    home: Home, settings: Settings, registry: Registry, dataset: str, update: Update | None = None
) -> FittedJudge | None:
    """Bring the judge of a data set up to date; None for a data set without one.

    It learns from the train normals that give no donors (see :func:`xadflow.models.judges.donor_half`) and gets its
    threshold from the val normals, at the same false-alarm rate as every detector. When nothing changed, the registered
    version stays.

    Raises:
        BadManifest: the data set has not been built by DVC.
        TooFewNormals, BadInput, BadSettings, TrainingFailed: as the fit of any detector.
    """
    order = judge_order(home, settings, dataset)
    if order is None:
        return None
    manifest = read_manifest(home.dataset(dataset))
    half = donor_half(manifest.rows(Split.TRAIN, label=0))
    ref = registry.find_trained(order.model_name, order.key)
    fitted = ref is None
    if ref is None:
        ref = _registered(home, settings, registry, order, manifest, half.apart, update)
    now = registry.alias(order.model_name, JUDGE)
    if now is None or now.version != ref.version:
        registry.set_alias(order.model_name, JUDGE, ref.version)
    return FittedJudge(ref.name, ref.version, fitted, half.apart)


def judge_order(home: Home, settings: Settings, dataset: str) -> TrainingOrder | None:
    """The training of a data set's judge, None for one without. Raises BadManifest when the data set is not built."""
    chosen = judge_choice(settings, dataset)
    if chosen is None:
        return None
    order = order_for(home, settings, dataset, JUDGE, chosen)
    half = donor_half(read_manifest(home.dataset(dataset)).rows(Split.TRAIN, label=0))
    normals = frozenset(row.image_id for row in half.judged)
    key = sha256_json({"judge": order.key, "normals": sorted(normals), "code": code_digest("models/judges")})[:32]
    return replace(order, normals=normals, key=key)


def _registered(
    home: Home,
    settings: Settings,
    registry: Registry,
    order: TrainingOrder,
    manifest: Manifest,
    apart: bool,
    update: Update | None,
) -> ModelRef:
    folder = train_detector(home, settings, order, update)
    detector = open_detector(folder, settings.device)
    metrics, figures = _figures(home, settings, order, manifest, detector)
    weights = sha256_file(folder / WEIGHTS)
    return registry.log_training(
        model_name=order.model_name,
        folder=folder,
        experiment=f"xad.{order.dataset}",
        params={
            "method": order.method,
            "seed": order.seed,
            "false_alarm_rate": order.false_alarm_rate,
            "apart": apart,
            **{f"settings.{name}": value for name, value in order.settings.items()},
        },
        metrics=metrics,
        history=[],
        figures=figures,
        dataset_name=order.dataset,
        dataset_digest=order.data_md5,
        dataset_frame=manifest.table.to_pandas(),
        input_shape=detector.input_shape,
        lineage={
            "commit": git_commit(home.project),
            "data": dvc_hashes(home.project, order.dataset),
            "training_key": order.key,
            "weights": weights,
            "apart": apart,
            "normals": sorted(order.normals or ()),
            "parameters": sha256_json(settings.model_dump(mode="json")),
            "libraries": library_versions(),
        },
        tags={
            TRAINING_KEY: order.key,
            DATA_MD5: order.data_md5,
            WEIGHTS_SHA256: weights,
            JUDGE_APART: "true" if apart else "false",
        },
    )


def _figures(
    home: Home, settings: Settings, order: TrainingOrder, manifest: Manifest, detector: Detector
) -> tuple[dict[str, float], dict[str, Path]]:
    """What is told of a judge: its fit and threshold, and how many known defects it flags; `test` is left alone."""
    calibration = detector.calibration
    known = manifest.rows(Split.KNOWN, label=1)
    images = load_images(manifest, known, settings.dataset(order.dataset))
    scores = score_images(detector, images, settings.explain.batch_size, settings.device)
    report = json.loads((order.folder(home) / REPORT).read_text())
    metrics = {
        **flat("fit", {**report["figures"], "seconds": report["seconds"]}),
        **flat(
            "calibration",
            {
                "threshold": calibration.threshold,
                "temperature": calibration.temperature,
                "normals": calibration.normal_scores.size,
            },
        ),
        **flat(
            "known",
            {
                "flagged": float(np.mean(scores > calibration.threshold)) if len(scores) else np.nan,
                "defects": len(scores),
            },
        ),
    }
    path = order.folder(home) / "figures" / "scores.png"
    score_histogram(calibration.normal_scores, scores, calibration.threshold, path)
    return metrics, {"scores": path}
