"""Register a trained detector as a challenger, with everything a person needs to judge it later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from xadflow.datasets.manifest import Split, read_manifest
from xadflow.detectors.base import SAMPLES, WEIGHTS, Detector
from xadflow.detectors.scoring import open_detector
from xadflow.digests import sha256_file, sha256_json
from xadflow.explainers.transplant import DonorBank
from xadflow.lineage import dvc_hashes, git_commit, library_versions
from xadflow.models.donors import open_bank
from xadflow.models.registry import Registry
from xadflow.models.tags import DATA_MD5, DONORS, TRAINING_KEY, WEIGHTS_SHA256
from xadflow.models.versions import ModelRef
from xadflow.pictures.plots import SheetRow, contact_sheet, roc_with_interval, score_histogram
from xadflow.settings import Home, Settings
from xadflow.work.week.donors import bank_size, choose_donors
from xadflow.work.week.evaluate import TRANSPLANT, Scored, explain_some, flat, score_split
from xadflow.work.week.scene_figures import scene_figures
from xadflow.work.week.train import REPORT, TrainingOrder

SHEET_ROWS = 6


def register_trained(home: Home, settings: Settings, registry: Registry, order: TrainingOrder) -> ModelRef:
    """Evaluate on `test`, log one run and register one version with the alias `challenger`.

    `test` is reported, never selected on. A training that is registered already is found by its key and not logged
    again, unless an explainer of params.yaml needs donors and that version was registered without, or with a bank of
    another size.
    """
    most = bank_size(settings)
    known = registry.find_trained(order.model_name, order.key)
    if known is not None and (not most or known.tags.get(DONORS) == str(most)):
        challenger = registry.alias(order.model_name, "challenger")
        if challenger is None or challenger.version < known.version:  # a kill came between version and alias
            registry.set_alias(order.model_name, "challenger", known.version)
        return known
    folder = order.saved(home)
    detector = open_detector(folder, settings.device)
    manifest = read_manifest(home.dataset(order.dataset))
    scored = score_split(detector, manifest, settings, order.dataset, Split.TEST)
    summary = scored.summary(detector.calibration.threshold, settings.seed)
    donors = choose_donors(detector, manifest, settings, order.dataset, most) if most else None
    if donors is not None:
        donors.save(folder)  # before the folder is logged: a version's files are hashed
    bank = open_bank(home, settings, folder, order.dataset) if donors is not None else None
    figures = _figures(order.folder(home) / "figures", settings, detector, scored, bank)
    figures |= {f"{SAMPLES}-{path.stem}": path for path in sorted((order.folder(home) / SAMPLES).glob("*.png"))}
    report = json.loads((order.folder(home) / REPORT).read_text())
    calibration = detector.calibration
    metrics = {
        **flat("test", summary.as_metrics()),
        **flat("test.pixels", scene_figures(detector, manifest, scored.rows, scored.images, settings, order.dataset)),
        **flat("fit", {**report["figures"], "seconds": report["seconds"], "steps": report["steps"]}),
        **flat(
            "calibration",
            {
                "threshold": calibration.threshold,
                "temperature": calibration.temperature,
                "error": calibration.calibration_error,
                "normals": calibration.normal_scores.size,
            },
        ),
        **(
            {"donors.chosen": float(len(donors.ids)), "donors.chosen_from": float(donors.chosen_from)} if donors else {}
        ),
    }
    ref = registry.log_training(
        model_name=order.model_name,
        folder=folder,
        experiment=f"xad.{order.dataset}",
        params={
            "method": order.method,
            "seed": order.seed,
            "false_alarm_rate": order.false_alarm_rate,
            **{f"settings.{name}": value for name, value in order.settings.items()},
            **{f"dataset.{name}": value for name, value in settings.dataset(order.dataset).model_dump().items()},
        },
        metrics=metrics,
        history=[(int(step), str(name), float(value)) for step, name, value in report["history"]],
        figures=figures,
        dataset_name=order.dataset,
        dataset_digest=order.data_md5,
        dataset_frame=manifest.table.to_pandas(),
        input_shape=detector.input_shape,
        lineage={
            "commit": git_commit(home.project),
            "data": dvc_hashes(home.project, order.dataset),
            "training_key": order.key,
            "weights": sha256_file(folder / WEIGHTS),
            "parameters": sha256_json(settings.model_dump(mode="json")),
            "libraries": library_versions(),
        },
        tags={
            TRAINING_KEY: order.key,
            DATA_MD5: order.data_md5,
            WEIGHTS_SHA256: sha256_file(folder / WEIGHTS),
            **({DONORS: str(most)} if donors else {}),
        },
    )
    registry.set_alias(order.model_name, "challenger", ref.version)
    return ref


def _figures(
    folder: Path, settings: Settings, detector: Detector, scored: Scored, bank: DonorBank | None
) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    normal, anomalous = scored.scores[scored.labels == 0], scored.scores[scored.labels == 1]
    paths = {name: folder / f"{name}.png" for name in ("scores", "roc", "explanations")}
    score_histogram(normal, anomalous, detector.calibration.threshold, paths["scores"])
    roc_with_interval(scored.scores, scored.labels, paths["roc"], seed=settings.seed)
    sheet = _sheet(settings, detector, scored, bank)
    if not sheet:
        del paths["explanations"]
        return paths
    contact_sheet(sheet, paths["explanations"])
    return paths


def _sheet(settings: Settings, detector: Detector, scored: Scored, bank: DonorBank | None) -> list[SheetRow]:
    """Rows for the contact sheet: a few flagged anomalies with heatmap, counterfactual and difference.

    Counterfactuals are transplants where the version has donors, else sparse ones: those are too fine to be seen on it.
    """
    explainer = "sparse" if bank is None else TRANSPLANT
    chosen, mended = explain_some(detector, scored, settings, explainer, SHEET_ROWS, bank)
    _, heat = explain_some(detector, scored, settings, "heatmap", SHEET_ROWS)
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
