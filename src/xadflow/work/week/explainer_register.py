"""Register a trained explainer as a version of its own model, with everything a person needs to judge it later."""

from __future__ import annotations

import json

import numpy as np
import torch

from xadflow.datasets.manifest import Split, read_manifest
from xadflow.detectors.scoring import open_detector
from xadflow.digests import sha256_json
from xadflow.explainers import load_explainer
from xadflow.explainers.base import Explanation
from xadflow.images import as_float
from xadflow.lineage import dvc_hashes, git_commit, library_versions
from xadflow.models.registry import Registry
from xadflow.models.tags import DATA_MD5, TRAINING_KEY
from xadflow.models.versions import ModelRef
from xadflow.pictures.counterfactual_sheet import CounterfactualRow, counterfactual_sheet
from xadflow.settings import Home, Settings
from xadflow.training.devices import resolve_device
from xadflow.work.week.evaluate import flat, score_split
from xadflow.work.week.explainer_training import ExplainerOrder
from xadflow.work.week.train import REPORT

SHOWN = 8  # held-out anomalies on the sample grid


def register_explainer(home: Home, settings: Settings, registry: Registry, order: ExplainerOrder) -> ModelRef:
    """Explain a few anomalies of split `test`, log one run and register one version, with the sheets of its training.

    `test` is shown, never selected on. A training that is registered already for this detector version is found by its
    key and not logged again.
    """
    known = registry.find_trained(order.model_name, order.registered_key)
    if known is not None:
        return known
    folder = order.saved(home)
    explainer = load_explainer(folder).to(resolve_device(settings.device))
    detector = open_detector(registry.detector_folder(order.detector), settings.device)
    manifest = read_manifest(home.dataset(order.dataset))
    scored = score_split(detector, manifest, settings, order.dataset, Split.TEST)
    flagged = np.flatnonzero((scored.labels == 1) & (scored.scores > detector.calibration.threshold))[:SHOWN]
    figures = order.samples(home)
    if len(flagged):
        pixels = scored.images[torch.from_numpy(flagged)]
        told = explainer.explain(detector, as_float(pixels.to(resolve_device(settings.device))))
        captions = [
            f"{scored.rows[i].defect or scored.rows[i].category}  score {scored.scores[i]:.2f}" for i in flagged
        ]
        figures["counterfactuals"] = order.folder(home) / "figures" / "counterfactuals.png"
        counterfactual_sheet(_rows(pixels, told, captions), figures["counterfactuals"], order.model_name, changes=True)
    report = json.loads((order.folder(home) / REPORT).read_text())
    return registry.log_training(
        model_name=order.model_name,
        folder=folder,
        experiment=f"xad.{order.dataset}",
        params={
            "explainer": order.explainer,
            "explainer_version": explainer.version,
            "seed": explainer.seed,
            "detector": order.detector.name,
            "detector_version": order.detector.version,
            **{f"settings.{name}": value for name, value in order.settings.items()},
        },
        metrics=flat("fit", {"seconds": report["seconds"], "normals": report["normals"], **report["anomalies"]}),
        history=[(int(step), str(name), float(value)) for step, name, value in report["history"]],
        figures=figures,
        dataset_name=order.dataset,
        dataset_digest=order.data_md5,
        dataset_frame=manifest.table.to_pandas(),
        lineage={
            "commit": git_commit(home.project),
            "data": dvc_hashes(home.project, order.dataset),
            "training_key": order.key,
            "detector_files": order.detector.files,
            "parameters": sha256_json(settings.model_dump(mode="json")),
            "libraries": library_versions(),
        },
        tags={TRAINING_KEY: order.registered_key, DATA_MD5: order.data_md5},
        explains=order.detector.as_explained,
    )


def _rows(pixels: torch.Tensor, told: list[Explanation], captions: list[str]) -> list[CounterfactualRow]:
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
