"""The whole probe: one cell for each rate and seed, kept as long as data, settings and code are the same, then the
figures.

var/probe/<dataset>-<detector>/cells/<key>/   cell.npz, and a checkpoint while it trains
var/probe/<dataset>-<detector>/probe.json     what the last probe said
var/probe/<dataset>-<detector>/probe.png      its picture
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xadflow.datasets.loading import load_images, training_data
from xadflow.datasets.manifest import Split, read_manifest
from xadflow.detectors.base import FitRun, TrainingData, build_detector
from xadflow.digests import sha256_json
from xadflow.errors import BadManifest, WrongUse
from xadflow.lineage import PROBE_CODE, code_digest, git_commit
from xadflow.progress import Update
from xadflow.project import Project
from xadflow.settings import DetectorSettings
from xadflow.training.seeds import seeded
from xadflow.work.probe.cells import Cell, measured
from xadflow.work.probe.picture import draw_probe
from xadflow.work.probe.planting import (
    SIDES,
    Ground,
    Side,
    TestImages,
    carriers,
    chosen,
    counts,
    ground,
    marked_test,
    planted,
)
from xadflow.work.probe.planting import side_label as label_of
from xadflow.work.probe.verdict import LEAST, judged
from xadflow.work.probe.watermark import Watermark
from xadflow.work.week.order import TrainingOrder, training_order

SHOWN = 3
FAMILY = {"network": "cnn28", "trunk": None, "min_steps": 200, "epochs": 0.01, "batch_size": 64}
QUICK: Mapping[str, Mapping[str, object]] = {
    "fcdd": {"max_normals": 256, "min_steps": 48, "epochs": 1.0, "synthetic_rounds": 1},
    "utad": {"impression": {"min_steps": 100}, "expert": {"min_steps": 50}},
    **dict.fromkeys(("fcdd_conv", "hsc", "dsvdd", "deep_sad", "bce", "ae"), FAMILY),
}
"""Settings of a quick probe, method by method; a method that is not here trains as it is set."""
QUICK_TEST_IMAGES = 100  # of each class

Track = Callable[[str], AbstractContextManager[Update]]


@dataclass(frozen=True)
class ProbePlan:
    """What is probed. Rate 0, the control, is always run; `most_test_images` of each class are looked at
    (None: all).
    """

    dataset: str
    detector: str
    side: Side = "outliers"
    rates: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0)
    seeds: tuple[int, ...] = (0,)
    mark: Watermark = field(default_factory=Watermark)
    settings: Mapping[str, object] = field(default_factory=dict)
    most_test_images: int | None = None

    def checked(self) -> ProbePlan:
        """The plan with its rates in order, the control first. Raises WrongUse."""
        if self.side not in SIDES:
            raise WrongUse(
                "a mark is planted on one of two sides", seen=self.side, next_step=f"use one of {list(SIDES)}"
            )
        odd = [rate for rate in self.rates if not 0.0 <= rate <= 1.0]
        if odd or not any(self.rates):
            raise WrongUse(
                "a probe needs rates in (0, 1], shares of the images that get the mark",
                seen=odd or list(self.rates),
                next_step="e.g. --rate 0 0.5 1",
            )
        if not self.seeds:
            raise WrongUse("a probe needs at least one seed", seen=list(self.seeds), next_step="give --seeds 1 or more")
        return ProbePlan(**{**vars(self), "rates": tuple(sorted({0.0, *self.rates}))})


@dataclass(frozen=True)
class Outcome:
    """What a probe said, where it is, and how many of its cells were made now."""

    report: Mapping[str, Any]
    folder: Path
    trained: int


def run_probe(project: Project, plan: ProbePlan, track: Track) -> Outcome:
    """Train what is missing, measure, write probe.json and probe.png.

    Raises:
        WrongUse: names, rates or sides that are not there, or a mark that could not have an effect.
        BadManifest: the data set has not been built, or its test split lacks a class.
    """
    plan = plan.checked()
    chosen_settings = project.settings.detector(plan.detector)
    mine = chosen_settings.model_copy(update={"settings": {**chosen_settings.settings, **plan.settings}})
    orders = {
        seed: training_order(_with(project, plan.detector, mine, seed), plan.dataset, plan.detector)
        for seed in plan.seeds
    }
    folder = project.home.probes / f"{plan.dataset}-{plan.detector}"
    work = _Work(project, plan, orders, folder / "cells", track)
    cells = {(rate, seed): work.cell(rate, seed) for seed in plan.seeds for rate in plan.rates}
    labels, area = work.test.labels, float(work.test.masks.float().mean())
    control = [cells[0.0, seed] for seed in plan.seeds]
    rows = []
    for rate in plan.rates:
        carrying = carriers(labels, plan.side, rate, 0)
        figures = judged([cells[rate, seed] for seed in plan.seeds], control, labels, area, carrying, plan.side)
        seconds = sum(cells[rate, seed].seconds for seed in plan.seeds)
        rows.append(
            {"rate": rate, "planted": counts(work.ground, rate), "training_seconds": round(seconds, 1), **figures}
        )
    report = {
        "dataset": plan.dataset,
        "detector": plan.detector,
        "method": mine.method,
        "side": plan.side,
        "settings": mine.settings,
        "seeds": list(plan.seeds),
        "mark": asdict(plan.mark),
        "rates": rows,
        "test": {"normals": int((labels == 0).sum()), "anomalies": int((labels == 1).sum())},
        "alarm": any(row["alarm"] for row in rows),
        "least": LEAST,
        "notes": list(work.ground.notes),
        "commit": git_commit(project.home.project),
        "data": {seed: order.data_md5 for seed, order in orders.items()}[plan.seeds[0]],
    }
    folder.mkdir(parents=True, exist_ok=True)
    first, last = cells[0.0, plan.seeds[0]], cells[plan.rates[-1], plan.seeds[0]]
    draw_probe(report, work.test, work.shown, first.maps, last.maps, folder / "probe.png")
    partial = folder / "probe.json.partial"
    partial.write_text(json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(folder / "probe.json")
    return Outcome(report, folder, work.trained)


def _with(project: Project, name: str, detector: DetectorSettings, seed: int) -> Project:
    detectors = {**project.settings.detectors, name: detector}
    return Project(project.home, project.settings.model_copy(update={"seed": seed, "detectors": detectors}))


class _Work:
    """Data loaded once, and one cell after the other."""

    def __init__(
        self, project: Project, plan: ProbePlan, orders: Mapping[int, TrainingOrder], folder: Path, track: Track
    ) -> None:
        self.project, self.plan, self.orders, self.folder, self.track = project, plan, orders, folder, track
        self.trained = 0
        dataset = project.settings.dataset(plan.dataset)
        order = orders[plan.seeds[0]]
        detector = build_detector(order.method, **order.settings)  # wrong settings are said before any image is read
        manifest = read_manifest(project.home.dataset(plan.dataset))
        outliers = read_manifest(project.home.dataset(dataset.outliers)) if dataset.outliers else None
        with track(f"{plan.dataset}: training images") as update:
            data = training_data(manifest, dataset, lambda done, total: update(done, total, {}), outliers=outliers)
        self.ground: Ground = ground(detector, data, plan.side, 0)
        rows = [row for row in manifest.rows(Split.TEST) if row.label is not None]
        if plan.most_test_images is not None:
            keep = {number for label in (0, 1) for number in _some(rows, label, plan.most_test_images)}
            rows = [row for number, row in enumerate(rows) if number in keep]
        labels = np.array([row.label for row in rows], dtype=np.int64)
        if set(labels.tolist()) != {0, 1}:
            raise BadManifest(
                "the probe needs normal and anomalous test images",
                seen=sorted(set(labels.tolist())),
                next_step="probe a data set that is judged, see `judged` in params.yaml",
            )
        self.test: TestImages = marked_test(load_images(manifest, rows, dataset), labels, plan.mark, 0)
        of_side = np.flatnonzero(labels == label_of(plan.side))
        self.shown = of_side[np.linspace(0, of_side.size - 1, min(SHOWN, of_side.size)).astype(int)].tolist()

    def cell(self, rate: float, seed: int) -> Cell:
        """The cell of this rate and seed, read or made."""
        plan, order = self.plan, self.orders[seed]
        key = sha256_json(
            {
                "training": order.key,
                "rate": rate,
                "side": plan.side,
                "mark": asdict(plan.mark),
                "most_test_images": plan.most_test_images,
                "batch_size": self.project.settings.explain.batch_size,
                "code": code_digest(*PROBE_CODE),
            }
        )[:32]
        path = self.folder / key / "cell.npz"
        if path.is_file():
            return Cell.load(path)
        data: TrainingData = planted(self.ground, rate, plan.mark, seed)
        detector = build_detector(order.method, **order.settings)
        what = f"mark on {rate:.0%} of the {plan.side}, seed {seed}" if rate else f"control without mark, seed {seed}"
        fit = path.parent / "fit"
        fit.mkdir(parents=True, exist_ok=True)
        with self.track(f"{plan.dataset} {plan.detector}: {what}") as update:
            fitted = detector.fit(data, FitRun(fit, seed, order.false_alarm_rate, self.project.settings.device, update))
        cell = measured(
            detector,
            self.test,
            self.shown,
            self.project.settings.explain.batch_size,
            self.project.device,
            fitted.seconds,
        )
        cell.save(path)  # its presence says that the cell is done
        shutil.rmtree(fit)
        self.trained += 1
        return cell


def _some(rows: list[Any], label: int, most: int) -> list[int]:
    """Positions of at most `most` rows of a label, drawn."""
    of_label = [number for number, row in enumerate(rows) if row.label == label]
    share = min(1.0, most / max(1, len(of_label)))
    picked = chosen(len(of_label), share, seeded(0, "probe", "test images", label))
    return [number for number, is_in in zip(of_label, picked, strict=True) if is_in]
