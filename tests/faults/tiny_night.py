"""A night small enough to be killed many times: 64 px crops of gravel, a real detector in a real registry, no Prefect.

The functions here are the work of child processes (see benchmarks/faults_kit/children.py); each child finds its project
and state by the environment, as every command does.
"""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults_kit.points import arm

WARM = ("benchmarks.faults_kit.warmed", "benchmarks.faults_kit.outcomes", "tasks.slots", "skimage.data", "mlflow")
PLATES, SIDE, DAY = "plates", 64, date(2026, 1, 5)
BOTH = ("heatmap", "sparse")
PARAMS = f"""\
device: cpu
catalogue: [{PLATES}]
datasets: {{{PLATES}: {{source: folder, size_px: {SIDE}, channels: 1}}}}
detectors: {{fcdd: {{method: fcdd}}}}
explainers: {{heatmap: {{}}, sparse: {{radii: [100], rung_iterations: 2, iterations: 1, widen_mask: false, shrink_steps: 0}}}}
retrain: {{datasets: [{PLATES}], detectors: [fcdd]}}
explain: {{datasets: [{PLATES}], explainers: [heatmap, sparse], shard_size: 4, batch_size: 4}}
demo: {{dataset: {PLATES}}}
"""  # noqa: E501
SMALL = {"stages": (2,), "min_steps": 12, "epochs": 1.0, "batch_normals": 16, "batch_synthetic": 16}


def make_project(project: Path) -> None:
    """params.yaml, an empty dvc.yaml, a data set of one image, and an inbox of eight, four of them defective."""
    import torch
    from PIL import Image

    from xadflow.datasets.manifest import ManifestRow, Split, write_manifest, write_quarantine

    folder = project / "data" / PLATES
    (folder / "images").mkdir(parents=True)
    (project / "inbox").mkdir()
    (project / "params.yaml").write_text(PARAMS)
    (project / "dvc.yaml").write_text("stages: {}\n")
    for number, crop in enumerate(gravel_crops(8, seed=5).numpy()[:, 0]):
        if number % 2:
            crop[20:36, 20:36] = 255 if number % 4 == 1 else 0
        Image.fromarray(crop).save(project / "inbox" / f"{number}.png")
    (project / "inbox" / "note.png").write_text("no image")
    Image.fromarray(torch.zeros(SIDE, SIDE, dtype=torch.uint8).numpy()).save(folder / "images" / "black.png")
    row = ManifestRow(
        image_id=hashlib.sha256((folder / "images" / "black.png").read_bytes()).hexdigest(),
        path="images/black.png",
        split=str(Split.TRAIN),
        label=0,
        category="plate",
        defect=None,
        mask_path=None,
        width=SIDE,
        height=SIDE,
        source="made up",
        licence="not stated",
    )
    write_manifest(folder / "manifest.parquet", [row])
    write_quarantine(folder / "quarantine.parquet", [])


def register_champion() -> None:
    """Fit a small FCDD on the CPU, log it to a new registry and make it champion."""
    import pandas as pd
    import torch

    from xadflow.detectors import FitRun, TrainingData
    from xadflow.detectors.fcdd.detector import FCDD
    from xadflow.project import Project

    torch.set_num_threads(1)
    opened = Project.open()
    nothing = torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8)
    data = TrainingData(
        normals=gravel_crops(32, 1),
        val_normals=gravel_crops(16, 2),
        known=nothing,
        known_masks=None,
        calibration_defects=nothing,
    )
    detector = FCDD(**SMALL)
    detector.fit(data, FitRun(opened.home.runs / "fit", seed=0, false_alarm_rate=0.1, device="cpu"))
    detector.save(opened.home.runs / "saved")
    ref = opened.registry.log_training(
        model_name=f"xad.{PLATES}.fcdd",
        folder=opened.home.runs / "saved",
        experiment="xad.plates",
        params={},
        metrics={},
        history=[],
        figures={},
        dataset_name=PLATES,
        dataset_digest="none",
        dataset_frame=pd.DataFrame({"image_id": ["a"]}),
        input_shape=(1, SIDE, SIDE),
        lineage={},
        tags={},
    )
    opened.registry.set_alias(ref.name, "champion", ref.version)


def explain(run_id: str, inbox: Path, options: dict[str, Any]) -> None:
    """One night by plain calls: plan, every shard, report. Options:

    - point: where this process dies
    - explainers: instead of both
    - backwards: the last shard first
    - together: a barrier to wait at before the inbox is admitted and again when the work is planned, so that several
      nights admit and plan the same
    """
    import torch

    import xadflow.work.night.finish as finish
    from xadflow.project import Project
    from xadflow.work.night import NightOrder, explain_shard, plan_night, read_plan

    torch.set_num_threads(1)
    if "point" in options:
        arm(options["point"])
    together = options.get("together")
    opened = Project.open()
    opened.registry.prepare()
    opened.store.prepare()
    if together is not None:
        together.wait(120)
    plan = read_plan(
        plan_night(
            opened,
            NightOrder(PLATES, DAY, run_id, inbox=inbox, only_inbox=True, explainers=options.get("explainers", BOTH)),
        )
    )
    if together is not None:
        together.wait(120)
    for index in sorted(range(len(plan.shards)), reverse=options.get("backwards", False)):
        explain_shard(opened, plan, index)
    finish.finish_night(opened, plan, [])


def gravel_crops(count: int, seed: int) -> Any:
    """uint8 [count,1,64,64] crops of a photographed gravel."""
    import torch
    from skimage import data

    gravel, rng = data.gravel(), np.random.default_rng(seed)
    corners = rng.integers(0, 512 - SIDE, (count, 2))
    return torch.from_numpy(np.stack([gravel[y : y + SIDE, x : x + SIDE] for y, x in corners])[:, None].copy())
