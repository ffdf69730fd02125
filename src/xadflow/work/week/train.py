"""Train one detector on one data set, into a folder named after everything that decides the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from xadflow.project import Project
from xadflow.settings import Settings
from xadflow.work.week.order import REPORT, TrainingOrder

if TYPE_CHECKING:
    from xadflow.detectors import FitRun, TrainingData

Update = Callable[[int, int, Mapping[str, float]], None]


def earlier_stages(settings: Settings, detector: str) -> list[str]:
    """Stages of a detector's training that are work of their own before :func:`train_detector`; most have none."""
    from xadflow.detectors.base import training_stages  # brings torch in

    return list(training_stages(settings.detector(detector).method)[:-1])


def train_stage(project: Project, order: TrainingOrder, stage: str, update: Update | None = None) -> Path:
    """Train one detector up to a stage; returns the folder of its checkpoints, from which the next stage goes on."""
    if not order.is_done(project.home):
        from xadflow.detectors.base import Staged, build_detector

        data, run = _work(project, order, update)
        detector = build_detector(order.method, **order.settings)
        assert isinstance(detector, Staged)
        detector.fit_stage(stage, data, run)
    return order.folder(project.home)


def train_detector(project: Project, order: TrainingOrder, update: Update | None = None) -> Path:
    """Train, calibrate and save; returns the folder of the saved detector. Goes on from a checkpoint after a kill."""
    if order.is_done(project.home):
        return order.saved(project.home)
    from xadflow.detectors import build_detector
    from xadflow.detectors.base import remember_bit_depth

    data, run = _work(project, order, update)
    detector = build_detector(order.method, **order.settings)
    report = detector.fit(data, run)
    detector.save(order.saved(project.home))
    remember_bit_depth(order.saved(project.home), project.settings.dataset(order.dataset).bit_depth)
    (run.folder / REPORT).write_text(json.dumps(asdict(report)))  # last: it says that the training has ended
    return order.saved(project.home)


def _work(project: Project, order: TrainingOrder, update: Update | None) -> tuple[TrainingData, FitRun]:
    """The images, and where and how to train on them; makes the folder."""
    from xadflow.datasets.loading import training_data
    from xadflow.datasets.manifest import read_manifest
    from xadflow.detectors import FitRun
    from xadflow.detectors.base import detector_class, traits

    folder = order.folder(project.home)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(project.home.dataset(order.dataset))
    dataset = project.settings.dataset(order.dataset)
    needed = dataset.outliers if traits(detector_class(order.method)).learns_from_outliers else None
    outliers = read_manifest(project.home.dataset(needed)) if needed else None
    run = FitRun(
        folder, order.seed, order.false_alarm_rate, project.settings.device, update, project.settings.retrain.memory_mb
    )
    return training_data(manifest, dataset, outliers=outliers, normals=order.normals), run
