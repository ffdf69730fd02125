"""Register what was trained as a version of its model, with everything a person needs to judge it later.

Detectors, judges and explainers are registered alike, by :func:`_registered`; what is measured and shown of each
differs. Split `test` is reported and shown, never selected on, and of a judge not even looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xadflow.datasets.loading import load_images
from xadflow.datasets.manifest import Manifest, Split, read_manifest
from xadflow.detectors.base import WEIGHTS, Detector, as_seen_by
from xadflow.detectors.scoring import open_detector, score_images
from xadflow.digests import sha256_file, sha256_json
from xadflow.explainers import load_explainer
from xadflow.explainers.base import Explanation
from xadflow.explainers.transplant import DonorBank
from xadflow.images import as_float
from xadflow.lineage import dvc_hashes, git_commit, library_versions
from xadflow.models.donors import open_bank
from xadflow.models.registry import CHALLENGER
from xadflow.models.tags import DATA_MD5, DONORS, JUDGE_APART, RECALIBRATED_FROM, TRAINING_KEY, WEIGHTS_SHA256
from xadflow.models.versions import ModelRef
from xadflow.pictures.counterfactual_sheet import CounterfactualRow, counterfactual_sheet
from xadflow.pictures.plots import SheetRow, contact_sheet, roc_with_interval, score_histogram
from xadflow.project import Project
from xadflow.work.numbers import rows_of_another, take_a_free_number
from xadflow.work.week.donors import bank_size, choose_donors
from xadflow.work.week.evaluate import TRANSPLANT, Scored, explain_some, flat, score_split
from xadflow.work.week.order import REPORT, ExplainerOrder, Order, TrainingOrder
from xadflow.work.week.pixel_figures import PIXELS, pixel_figures
from xadflow.work.week.scene_figures import scene_figures

SHEET_ROWS = 6
SHOWN = 8  # held-out anomalies on the sample grid of an explainer


@dataclass(frozen=True)
class _Measured:
    """What is logged of one training beside what all have; `history` only where it is shown as curves."""

    params: Mapping[str, object]
    metrics: Mapping[str, float]
    figures: Mapping[str, Path]
    history: list[list[Any]] = field(default_factory=list)
    lineage: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def register_trained(project: Project, order: TrainingOrder, source: ModelRef | None = None) -> ModelRef:
    """Evaluate a detector on `test`, log one run and register one version with the alias `challenger`.

    A training that is registered already is found by its key and not logged again, unless an explainer of params.yaml
    needs donors and that version was registered without, or with a bank of another size.

    `source`: the version that this one has its weights of, where it was recalibrated and not trained.
    """
    home, settings, registry = project.home, project.settings, project.registry
    most = bank_size(settings)
    known = registry.find_trained(order.model_name, order.registered_key)
    if known is not None and rows_of_another(project.records, known, registry.detector_folder(known)):
        known = None  # it would find its images scored already, by a model that is gone
    if known is not None and (not most or known.tags.get(DONORS) == str(most)):
        challenger = registry.alias(order.model_name, CHALLENGER)
        if challenger is None or challenger.version < known.version:  # a kill came between version and alias
            registry.set_alias(order.model_name, CHALLENGER, known.version)
        return known
    folder = order.saved(home)
    detector = open_detector(folder, project.device)
    manifest = read_manifest(home.dataset(order.dataset))
    scored = score_split(project, detector, manifest, order.dataset, Split.TEST)
    donors = choose_donors(project, detector, manifest, order.dataset, most) if most else None
    if donors is not None:
        donors.save(folder)  # before the folder is logged: a version's files are hashed
    bank = open_bank(home, settings, folder, order.dataset) if donors is not None else None
    report = _report(project, order)
    metrics = {
        **flat("test", scored.figures(detector.calibration.threshold, settings.seed)),
        **flat(PIXELS, scene_figures(project, detector, manifest, scored.rows, scored.images, order.dataset)),
        **flat(PIXELS, pixel_figures(project, detector, manifest, scored.rows, scored.images, order.dataset)),
        **flat("fit", {**report["figures"], "seconds": report["seconds"], "steps": report["steps"]}),
        **flat("calibration", {**_calibration(detector), "error": detector.calibration.calibration_error}),
    }
    if donors is not None:
        metrics |= {"donors.chosen": float(len(donors.ids)), "donors.chosen_from": float(donors.chosen_from)}
    dataset = settings.dataset(order.dataset).model_dump()
    measured = _Measured(
        params={**_params(order), **{f"dataset.{name}": value for name, value in dataset.items()}},
        metrics=metrics,
        figures={**_plots(project, order, detector, scored, bank), **order.samples(home)},
        history=report["history"],
        lineage={"recalibrated": {"version": source.version, "files": source.files}} if source else {},
        tags={
            **({DONORS: str(most)} if donors else {}),
            **({RECALIBRATED_FROM: str(source.version)} if source else {}),
        },
    )
    ref = _registered(project, order, manifest, measured, detector)
    registry.set_alias(order.model_name, CHALLENGER, ref.version)
    return ref


def register_judge(project: Project, order: TrainingOrder, apart: bool) -> ModelRef:
    """Log one run and register one version of a judge: its fit and threshold, and how many known defects it flags.

    `apart`: it was fitted on no image that may give donors.
    """
    detector = open_detector(order.saved(project.home), project.device)
    manifest = read_manifest(project.home.dataset(order.dataset))
    known = manifest.rows(Split.KNOWN, label=1)
    images = load_images(manifest, known, as_seen_by(detector, project.settings.dataset(order.dataset)))
    scores = score_images(detector, images, project.settings.explain.batch_of(images.shape[1:]), project.device)
    threshold = detector.calibration.threshold
    flagged = float(np.mean(scores > threshold)) if len(scores) else np.nan
    report = _report(project, order)
    picture = order.folder(project.home) / "figures" / "scores.png"
    score_histogram(detector.calibration.normal_scores, scores, threshold, picture)
    measured = _Measured(
        params={**_params(order), "apart": apart},
        metrics={
            **flat("fit", {**report["figures"], "seconds": report["seconds"]}),
            **flat("calibration", _calibration(detector)),
            **flat("known", {"flagged": flagged, "defects": len(scores)}),
        },
        figures={"scores": picture},
        lineage={"apart": apart, "normals": sorted(order.normals or ())},
        tags={JUDGE_APART: "true" if apart else "false"},
    )
    return _registered(project, order, manifest, measured, detector)


def register_explainer(project: Project, order: ExplainerOrder) -> ModelRef:
    """Explain a few anomalies of split `test`, log one run and register one version, with the sheets of its training.

    A training that is registered already for this detector version is found by its key and not logged again.
    """
    known = project.registry.find_trained(order.model_name, order.registered_key)
    if known is not None:
        return known
    explainer = load_explainer(order.saved(project.home)).to(project.device)
    detector = open_detector(project.registry.detector_folder(order.detector), project.device)
    manifest = read_manifest(project.home.dataset(order.dataset))
    scored = score_split(project, detector, manifest, order.dataset, Split.TEST)
    flagged = np.flatnonzero((scored.labels == 1) & (scored.scores > detector.calibration.threshold))[:SHOWN]
    figures = order.samples(project.home)
    if len(flagged):
        pixels = scored.images[torch.from_numpy(flagged)]
        told = explainer.explain(detector, as_float(pixels.to(project.device)))
        captions = [
            f"{scored.rows[i].defect or scored.rows[i].category}  score {scored.scores[i]:.2f}" for i in flagged
        ]
        figures["counterfactuals"] = order.folder(project.home) / "figures" / "counterfactuals.png"
        rows = _counterfactuals(pixels, told, captions)
        counterfactual_sheet(rows, figures["counterfactuals"], order.model_name, changes=True)
    report = _report(project, order)
    measured = _Measured(
        params={
            "explainer": order.explainer,
            "explainer_version": explainer.version,
            "seed": explainer.seed,
            "detector": order.detector.name,
            "detector_version": order.detector.version,
            **_settings(order),
        },
        metrics=flat("fit", {"seconds": report["seconds"], "normals": report["normals"], **report["anomalies"]}),
        figures=figures,
        history=report["history"],
        lineage={"detector_files": order.detector.files},
    )
    return _registered(project, order, manifest, measured)


def _registered(
    project: Project, order: Order, manifest: Manifest, measured: _Measured, detector: Detector | None = None
) -> ModelRef:
    """One run and one version of what an order's folder holds; `detector` is that, None where it holds an explainer."""
    folder = order.saved(project.home)
    weights = sha256_file(folder / WEIGHTS) if detector is not None else None
    if detector is not None:
        take_a_free_number(project.records, project.registry, order.model_name, folder)
    return project.registry.log_training(
        model_name=order.model_name,
        folder=folder,
        experiment=f"xad.{order.dataset}",
        params=measured.params,
        metrics=measured.metrics,
        history=[(int(step), str(name), float(value)) for step, name, value in measured.history],
        figures=measured.figures,
        dataset_name=order.dataset,
        dataset_digest=order.data_md5,
        dataset_frame=manifest.table.to_pandas(),
        input_shape=detector.input_shape if detector is not None else None,
        lineage={
            "commit": git_commit(project.home.project),
            "data": dvc_hashes(project.home.project, order.dataset),
            "training_key": order.key,
            "parameters": sha256_json(project.settings.model_dump(mode="json")),
            "libraries": library_versions(),
            **({"weights": weights} if weights else {}),
            **measured.lineage,
        },
        tags={
            TRAINING_KEY: order.registered_key,
            DATA_MD5: order.data_md5,
            **({WEIGHTS_SHA256: weights} if weights else {}),
            **measured.tags,
        },
        explains=order.detector.as_explained if isinstance(order, ExplainerOrder) else None,
    )


def _report(project: Project, order: Order) -> dict[str, Any]:
    """What the training wrote last."""
    return dict(json.loads((order.folder(project.home) / REPORT).read_text()))


def _params(order: TrainingOrder) -> dict[str, object]:
    return {"method": order.method, "seed": order.seed, "false_alarm_rate": order.false_alarm_rate, **_settings(order)}


def _settings(order: Order) -> dict[str, object]:
    return {f"settings.{name}": value for name, value in order.settings.items()}


def _calibration(detector: Detector) -> dict[str, float]:
    its = detector.calibration
    return {
        "threshold": its.threshold,
        "temperature": its.temperature,
        "false_alarm_rate": its.false_alarm_rate,
        "normals": its.normal_scores.size,
    }


def _plots(
    project: Project, order: TrainingOrder, detector: Detector, scored: Scored, bank: DonorBank | None
) -> dict[str, Path]:
    folder = order.folder(project.home) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    normal, anomalous = scored.scores[scored.labels == 0], scored.scores[scored.labels == 1]
    paths = {"scores": folder / "scores.png"}
    score_histogram(normal, anomalous, detector.calibration.threshold, paths["scores"])
    if scored.can_be_ranked:
        paths["roc"] = folder / "roc.png"
        roc_with_interval(scored.scores, scored.labels, paths["roc"], seed=project.settings.seed)
    if sheet := _sheet(project, detector, scored, bank):
        paths["explanations"] = folder / "explanations.png"
        contact_sheet(sheet, paths["explanations"])
    return paths


def _sheet(project: Project, detector: Detector, scored: Scored, bank: DonorBank | None) -> list[SheetRow]:
    """Rows for the contact sheet: a few flagged anomalies with heatmap, counterfactual and difference.

    Counterfactuals are transplants where the version has donors, else sparse ones: those are too fine to be seen on it.
    """
    explainer = "sparse" if bank is None else TRANSPLANT
    chosen, mended = explain_some(project, detector, scored, explainer, SHEET_ROWS, bank)
    _, heat = explain_some(project, detector, scored, "heatmap", SHEET_ROWS)
    rows = []
    for i, one, where in zip(chosen, mended, heat, strict=True):
        if not one.counterfactuals:
            continue
        original, counterfactual = scored.images[i].numpy(), one.counterfactuals[0]
        change = (counterfactual.image.astype(np.float64) - original) / 255.0
        row = scored.rows[i]
        caption = f"{row.defect or row.category}  score {scored.scores[i]:.2f} to {counterfactual.score:.2f}"
        rows.append(SheetRow(original, where.heatmap, counterfactual.image, change, caption))
    return rows


def _counterfactuals(pixels: torch.Tensor, told: list[Explanation], captions: list[str]) -> list[CounterfactualRow]:
    return [
        CounterfactualRow(
            image.numpy(),
            [found.image for found in one.counterfactuals],
            [
                f"{'normal' if found.is_normal else 'still anomalous'}, {found.score:.2f}"
                for found in one.counterfactuals
            ],
            caption,
        )
        for image, one, caption in zip(pixels, told, captions, strict=True)
    ]
