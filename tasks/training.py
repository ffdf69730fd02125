"""Training: one task a detector (one a stage, where it has stages) and one an explainer, under the limit `gpu`.

A detector's is cached by the DVC hash and the training's key.
"""

from __future__ import annotations

import contextlib
from typing import Any

from tasks.runtime import step
from tasks.slots import GPU, slot
from xadflow.progress import track
from xadflow.project import Project
from xadflow.work.week import (
    ExplainerOrder,
    explainer_order,
    train_detector,
    train_explainer,
    train_stage,
    training_order,
)


def training_cache_key(context: Any, parameters: dict[str, Any]) -> str | None:
    """Key of a training whose files are there, else None (no cache): data, parameters, seed and code decide it."""
    project = Project.open()
    order = training_order(project, parameters["dataset"], parameters["detector"], parameters["seed"])
    return f"train-{order.data_md5.removesuffix('.dir')}-{order.key}" if order.is_done(project.home) else None


@step(
    "train",
    "train {detector} on {dataset}, seed {seed}",
    cache_key_fn=training_cache_key,
    persist_result=True,
    result_serializer="json",
)
def train(dataset: str, detector: str, seed: int, dvc_md5: str) -> dict[str, Any]:
    """Train one detector on one data set version; goes on from its checkpoint. Returns the training's key
    and folder.
    """
    project = Project.open()
    order = training_order(project, dataset, detector, seed)
    started_done = order.is_done(project.home)
    limit = contextlib.nullcontext() if started_done else slot(GPU)
    with limit, track(f"train {detector} on {dataset}, seed {seed}", "training") as update:
        folder = train_detector(project, order, update)
    return {"key": order.key, "folder": str(folder), "trained": not started_done, "dvc_md5": dvc_md5}


@step("train stage", "train {detector} on {dataset}, seed {seed}: {stage}")
def train_stage_of(dataset: str, detector: str, seed: int, stage: str) -> dict[str, Any]:
    """Train one detector up to a stage; goes on from its checkpoint, and leaves one. Returns the training's key and
    folder.
    """
    project = Project.open()
    order = training_order(project, dataset, detector, seed)
    limit = contextlib.nullcontext() if order.is_done(project.home) else slot(GPU)
    with limit, track(f"train {detector} on {dataset}, seed {seed}: {stage}", "training") as update:
        folder = train_stage(project, order, stage, update)
    return {"key": order.key, "folder": str(folder)}


@step("train explainer", "train {explainer} for {model} version {version}")
def train_explainer_of(dataset: str, model: str, version: int, explainer: str) -> dict[str, Any]:
    """Train one explainer for a detector version; goes on from its checkpoint. Returns the training's key
    and folder.
    """
    project = Project.open()
    order = order_of(project, dataset, model, version, explainer)
    started_done = order.is_done(project.home)
    limit = contextlib.nullcontext() if started_done else slot(GPU)
    with limit, track(f"train {explainer} for {model} version {version}", "training") as update:
        folder = train_explainer(project, order, update)
    return {"key": order.key, "folder": str(folder), "trained": not started_done}


def order_of(project: Project, dataset: str, model: str, version: int, explainer: str) -> ExplainerOrder:
    """The training of an explainer for a registered detector version."""
    return explainer_order(project, dataset, project.registry.resolve(f"{model}/{version}"), explainer)
