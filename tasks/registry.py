"""Registry tasks: register a trained detector as challenger, and let the gate decide."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.runtime import GPU, RETRY_DELAYS, is_transient, open_project, slot
from xadflow.retraining import judge_challenger, register_trained, training_order


@task(
    name="register", task_run_name="register {detector} of {dataset}, seed {seed}", cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS), retry_delay_seconds=RETRY_DELAYS, retry_condition_fn=is_transient,
)  # fmt: skip
def register(dataset: str, detector: str, seed: int, trained: dict[str, Any]) -> dict[str, Any]:
    """Evaluate on `test` and register as challenger; a training that is registered already is only found again."""
    project = open_project()
    project.registry.prepare()
    order = training_order(project.home, project.settings, dataset, detector, seed)
    with slot(GPU):
        ref = register_trained(project.home, project.settings, project.registry, order)
    return {"model": ref.name, "version": ref.version, "run_id": ref.run_id, "trained": trained["trained"]}


@task(
    name="gate", task_run_name="gate {dataset}", cache_policy=NO_CACHE, retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS, retry_condition_fn=is_transient,
)  # fmt: skip
def gate(dataset: str, challenger: dict[str, Any]) -> dict[str, Any]:
    """Champion against challenger on split `gate`; moves the alias `champion` when every rule holds."""
    project = open_project()
    ref = project.registry.resolve(f"{challenger['model']}/{challenger['version']}")
    with slot(GPU):
        outcome = judge_challenger(project.home, project.settings, project.registry, dataset, ref)
    return {
        "model": outcome.model_name, "version": outcome.version, "passed": outcome.passed, "judged": outcome.judged,
        "reasons": list(outcome.reasons), "figures": dict(outcome.figures),
        "link": project.registry.run_link(ref), "trained": challenger["trained"],
    }  # fmt: skip
