"""Train an explainer for one detector version, into a folder named after everything that decides the result."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from xadflow.project import Project
from xadflow.work.week.order import REPORT, ExplainerOrder
from xadflow.work.week.train import Update

if TYPE_CHECKING:
    from torch import Tensor

    from xadflow.detectors.base import Detector, TrainingData

MOST_OF_A_KIND = 8192  # images: a generator sees some ten thousand, and all of them lie in memory
EVERY_KIND = ("outliers", "known", "synthetic")


def train_explainer(project: Project, order: ExplainerOrder, update: Update | None = None) -> Path:
    """Train and save; returns the folder of the saved explainer. Goes on from a checkpoint after a kill.

    It learns from what the detector learned from: train normals, and anomalies of the kinds that the detector was
    trained against; never from images of the splits val, gate or test.
    """
    home, settings = project.home, project.settings
    if order.is_done(home):
        return order.saved(home)
    from xadflow.datasets.loading import training_data
    from xadflow.datasets.manifest import Split, read_manifest
    from xadflow.detectors.base import FitRun
    from xadflow.detectors.scoring import open_detector
    from xadflow.explainers import TrainedExplainer, build_explainer
    from xadflow.explainers.trained import GeneratorRun, Guided
    from xadflow.work.week.explainer_guidance import donors_of, guidance, rows_of_donors

    folder = order.folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    explained = project.registry.detector_folder(order.detector)
    detector = open_detector(explained, project.device)
    explainer = cast(TrainedExplainer, build_explainer(order.explainer, **order.settings))  # the order has checked it
    dataset = settings.dataset(order.dataset)
    outliers = read_manifest(home.dataset(dataset.outliers)) if dataset.outliers else None
    manifest = read_manifest(home.dataset(order.dataset))
    data = training_data(manifest, dataset, outliers=outliers)
    started = time.monotonic()
    anomalies, kinds = training_anomalies(detector, data, explainer.seed)
    run = GeneratorRun(folder, explainer.seed, order.key, project.device, update, samples=True)
    whom = order.detector.as_explained.weights
    wanted = explainer.wanted if isinstance(explainer, Guided) else None
    if wanted is None:
        trained = explainer.fit(detector, whom, data.normals, anomalies, run)
    else:
        rows = manifest.rows(Split.TRAIN, label=0)
        fit_run = FitRun(folder, explainer.seed, settings.false_alarm_rate(order.dataset), str(project.device))
        ids = [row.image_id for row in rows]
        bank = donors_of(explained, ids, data.normals) if wanted.transplants else None
        given = guidance(
            wanted, detector, data, fit_run, bank=bank, symmetries=dataset.symmetries, apart=rows_of_donors(rows)
        )
        trained = cast(Any, explainer).fit(detector, whom, data.normals, anomalies, run, given)
    explainer.save(order.saved(home))
    report = {
        "seconds": time.monotonic() - started,
        "resumed_from": trained.resumed_from,
        "history": trained.history,
        "normals": len(data.normals),
        "anomalies": kinds,
    }
    (folder / REPORT).write_text(json.dumps(report))  # last: its presence says that the training has ended
    return order.saved(home)


def training_anomalies(detector: Detector, data: TrainingData, seed: int) -> tuple[Tensor, dict[str, int]]:
    """Anomalies to train against, uint8 [N,C,H,W], and how many different ones of each kind.

    The kinds are those that the detector learns from, or all where it names none or learns from normals alone; each has
    the same share of the bank, as it has in a detector's batches. Synthetic ones are drawn once for each train normal.
    """
    import torch

    from xadflow.defects.synthesisers import synthetic_rounds
    from xadflow.detectors.base import traits
    from xadflow.training.seeds import seeded

    said = traits(detector)
    sources = (said.anomaly_sources(data) if said.anomaly_sources is not None else ()) or EVERY_KIND
    found = {"outliers": data.outliers, "known": data.known}
    banks = {kind: found[kind] for kind in sources if kind in found and len(found[kind])}
    if "synthetic" in sources:
        drawn, _ = synthetic_rounds(
            data.normals[:MOST_OF_A_KIND], said.synthesiser, 1, 64, torch.device("cpu"), seeded(seed, "anomalies")
        )
        banks["synthetic"] = drawn
    banks = {kind: bank[:MOST_OF_A_KIND] for kind, bank in banks.items()}
    most = max(map(len, banks.values()), default=0)
    parts = [bank[torch.arange(most) % len(bank)] for bank in banks.values()]
    return torch.cat(parts) if parts else data.normals[:0], {kind: len(bank) for kind, bank in banks.items()}
