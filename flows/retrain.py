"""The weekly flow: data set stages, then train, register and gate each detector, and the explainers trained for it.

prefect deployment run 'retrain/weekly'      or      xadflow retrain --dataset elpv
"""

from __future__ import annotations

from typing import Any

from prefect import allow_failure, flow
from prefect.futures import PrefectFuture

from tasks.dataset import build_dataset
from tasks.failures import Failure, first_failure, raise_first
from tasks.publishing import notify_failure, report_gate
from tasks.registry import gate, judge, open_registry, put_in_service_of, register, register_explainer_of
from tasks.runtime import local_runner
from tasks.slots import ensure_limits
from tasks.training import train, train_explainer_of, train_stage_of
from xadflow.datasets.in_use import using
from xadflow.explainers.declared import check_explainers
from xadflow.project import Project
from xadflow.settings import Settings, quiet_environment
from xadflow.stopping import stoppable
from xadflow.work.week import earlier_stages


@flow(name="retrain", task_runner=local_runner(), on_failure=[notify_failure], on_crashed=[notify_failure])
def retrain(
    datasets: list[str] | None = None, detectors: list[str] | None = None, seeds: list[int] | None = None
) -> list[dict[str, Any]]:
    """Bring data sets up to date and train, register and gate each detector on them; returns the gate's verdicts.

    A data set's judge is fitted once, before anything is gated; one that fails leaves the detectors without its word.

    Defaults come from `retrain` in params.yaml. What did not change is not trained again. Trainings of all detectors
    and seeds run side by side as the limit `gpu` allows; the seeds are versions of one model, so they are gated in
    turn.

    Where a detector gets explainers of its own (retrain.explainers), they are trained for the version that the gate
    lets serve, and both move into service together. An explainer whose training fails leaves the detector without it.
    """
    with stoppable():
        project = Project.open()
        quiet_environment(project.home)
        settings = project.settings
        check_explainers(settings)
        wanted = datasets or list(settings.retrain.datasets)
        methods = detectors or list(settings.retrain.detectors)
        drawn = list(dict.fromkeys(seeds or settings.retrain.seeds or (settings.seed,)))
        for name in wanted:
            settings.dataset(name)  # an unknown name stops the run before any work
        for name in methods:
            settings.detector(name)
        outliers = [one for name in wanted if (one := settings.dataset(name).outliers)]
        with using(project.home, [*wanted, *outliers]):
            ensure_limits()
            return _retrained(settings, wanted, methods, drawn)


def _retrained(settings: Settings, wanted: list[str], methods: list[str], drawn: list[int]) -> list[dict[str, Any]]:
    """The verdicts on all detectors and explainers. Raises the first failure, after all that could be done is done."""
    stages = {name: earlier_stages(settings, name) for name in methods}
    opened = open_registry.submit()  # seconds of a child, the first time; DVC's child works beside it
    outcomes: list[dict[str, Any]] = []
    failed: list[Failure] = []
    for dataset in wanted:
        if outliers := settings.dataset(dataset).outliers:
            build_dataset(outliers)
        md5 = build_dataset(dataset)["manifest"]
        raise_first(list(filter(None, [first_failure("opening the registry of models", opened)])))
        panel = judge.submit(dataset, md5)
        trained = {(name, seed): _trained(dataset, name, seed, md5, stages[name]) for seed in drawn for name in methods}
        failed += filter(None, [first_failure(f"the judge of {dataset}", panel)])  # waits: the gate asks it
        for seed in drawn:
            judged, trouble = _gated(settings, dataset, {name: trained[name, seed] for name in methods}, seed)
            failed += trouble
            for name, outcome in judged.items():
                outcomes.append(outcome)
                explained, trouble = _explainers(dataset, outcome, settings.trained_explainers(dataset, name))
                outcomes += explained
                failed += trouble
    report_gate(outcomes)
    raise_first(failed, [_gate_line(one) for one in outcomes])
    return outcomes


def _gate_line(outcome: dict[str, Any]) -> str:
    verdict = "passed the gate" if outcome["passed"] else "did not pass the gate"
    return f"{outcome['model']} version {outcome['version']} was not touched by that: it {verdict}"


def _gated(
    settings: Settings, dataset: str, trained: dict[str, PrefectFuture[dict[str, Any]]], seed: int
) -> tuple[dict[str, dict[str, Any]], list[Failure]]:
    """Register and gate what was trained with one seed, by detector; the verdicts, and what went wrong on the way."""
    registered = {name: register.submit(dataset, name, seed, one, return_state=False) for name, one in trained.items()}
    gated = {
        name: gate.submit(dataset, one, bool(settings.trained_explainers(dataset, name)), return_state=False)
        for name, one in registered.items()
    }
    failed = {
        name: first_failure(f"{name} on {dataset}, seed {seed}", trained[name], registered[name], gated[name])
        for name in trained
    }
    judged = {name: one.result() for name, one in gated.items() if failed[name] is None}
    return judged, [one for one in failed.values() if one is not None]


def _trained(dataset: str, detector: str, seed: int, dvc_md5: str, earlier: list[str]) -> PrefectFuture[dict[str, Any]]:
    """A training, its earlier stages first as tasks of their own; the last runs what is missing, and so says what
    failed.
    """
    before: list[Any] = []
    for stage in earlier:
        before = [
            allow_failure(train_stage_of.submit(dataset, detector, seed, stage, return_state=False, wait_for=before))
        ]
    return train.submit(dataset, detector, seed, dvc_md5, return_state=False, wait_for=before)


def _explainers(dataset: str, outcome: dict[str, Any], names: list[str]) -> tuple[list[dict[str, Any]], list[Failure]]:
    """Train, register and gate explainers for the version that is to serve, then put all of it into service.

    Returns the verdicts on them, and what went wrong.
    """
    if not names or outcome["serves"] is None:
        return [], []
    model, version = outcome["model"], outcome["serves"]
    trained = {name: train_explainer_of.submit(dataset, model, version, name) for name in names}
    registered = {name: register_explainer_of.submit(dataset, model, version, name, trained[name]) for name in names}
    failed = {
        name: first_failure(f"{name} of {model} version {version}", trained[name], registered[name]) for name in names
    }
    found = [registered[name].result() for name in names if failed[name] is None]
    serving = put_in_service_of(outcome)
    return (
        [{**one, "in_service": serving.get(one["model"]) == one["version"]} for one in found],
        [one for one in failed.values() if one is not None],
    )
