"""Registry tasks: register what was trained, let the gate decide, and put its decision into force."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.runtime import step
from tasks.slots import GPU, slot
from tasks.training import order_of
from xadflow.errors import XadflowError
from xadflow.progress import track
from xadflow.project import Project
from xadflow.work.week import (
    fit_judge,
    judge_challenger,
    judge_explainer,
    pixel_line,
    register_explainer,
    register_trained,
    settle,
    training_order,
)


@task(name="open registry", cache_policy=NO_CACHE)
def open_registry() -> None:
    """Create MLflow's database where there is none, and load MLflow; whatever fails here is said by the task that needs
    it.
    """
    with contextlib.suppress(XadflowError):
        Project.open().registry.models()


@step("register", "register {detector} of {dataset}, seed {seed}")
def register(dataset: str, detector: str, seed: int, trained: dict[str, Any]) -> dict[str, Any]:
    """Evaluate on `test` and register as challenger; a training that is registered already is only found again."""
    project = Project.open()
    project.registry.prepare()
    order = training_order(project, dataset, detector, seed)
    with slot(GPU), track(f"measure and register {detector} of {dataset}, seed {seed}", "registry"):
        ref = register_trained(project, order)
    return {"model": ref.name, "version": ref.version, "run_id": ref.run_id, "trained": trained["trained"]}


@step("fit judge", "fit the judge of {dataset}")
def judge(dataset: str, dvc_md5: str) -> dict[str, Any] | None:
    """Fit and register the judge of one data set version, or find it registered; None for a data set without one."""
    project = Project.open()
    project.registry.prepare()
    with slot(GPU), track(f"fit the judge of {dataset}") as update:
        found = fit_judge(project, dataset, update)
    return None if found is None else {**asdict(found), "dvc_md5": dvc_md5}


@step("gate", "gate {dataset}")
def gate(dataset: str, challenger: dict[str, Any], hold: bool) -> dict[str, Any]:
    """Champion against challenger on split `gate`; moves the alias `champion` when every rule holds, unless `hold`."""
    project = Project.open()
    ref = project.registry.resolve(f"{challenger['model']}/{challenger['version']}")
    with slot(GPU), track(f"gate {ref.name} version {ref.version}", "gate"):
        outcome = judge_challenger(project, dataset, ref, hold=hold)
    return {
        "model": outcome.model_name,
        "version": outcome.version,
        "passed": outcome.passed,
        "verdict": outcome.verdict,
        "judged": outcome.judged,
        "reasons": list(outcome.reasons),
        "figures": dict(outcome.figures),
        "pixels": pixel_line(project.registry.figures(ref)),
        "link": project.registry.run_link(ref),
        "trained": challenger["trained"],
        "serves": outcome.serves,
        "key": outcome.key,
    }


@step("register explainer", "register {explainer} for {model} version {version}")
def register_explainer_of(dataset: str, model: str, version: int, explainer: str, trained: Any) -> dict[str, Any]:
    """Register a trained explainer as a version of its own model, and let the gate say whether it may serve."""
    project = Project.open()
    order = order_of(project, dataset, model, version, explainer)
    with slot(GPU), track(f"register and gate {explainer} of {model} version {version}", "gate"):
        ref = register_explainer(project, order)
        outcome = judge_explainer(project, dataset, ref, order.detector)
    return {
        "model": ref.name,
        "version": ref.version,
        "explains": version,
        "passed": outcome.passed,
        "judged": outcome.judged,
        "reasons": list(outcome.reasons),
        "figures": dict(outcome.figures),
        "link": project.registry.run_link(ref),
        "trained": trained["trained"],
    }


@step("put in service", "put in service {outcome[model]} version {outcome[serves]}")
def put_in_service_of(outcome: dict[str, Any]) -> dict[str, int | None]:
    """Put a gate's decision that was held into force, detector and explainers together. Returns the explainers'
    versions.
    """
    moved = settle(Project.open().registry, outcome["model"], outcome["version"], outcome["serves"], outcome["key"])
    return dict(moved.explainers) if moved is not None else {}
