"""The weekly flow: data set stages, then train, register and gate each detector, and the explainers trained for it.

prefect deployment run 'retrain/weekly'      or      xadflow retrain --dataset elpv
"""

from __future__ import annotations

from typing import Any

from prefect import allow_failure, flow, unmapped
from prefect.futures import PrefectFuture, wait

from tasks.dataset import build_dataset
from tasks.publishing import notify_failure, report_gate
from tasks.registry import gate, judge, open_registry, put_in_service_of, register, register_explainer_of
from tasks.runtime import ensure_limits, local_runner
from tasks.training import train, train_explainer_of, train_stage_of
from xadflow.errors import WorkFailed
from xadflow.explainers.declared import check_explainers
from xadflow.project import Project
from xadflow.settings import quiet_environment
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
    stages = {name: earlier_stages(settings, name) for name in methods}
    ensure_limits()
    open_registry.submit()  # seconds of a child, the first time; DVC's child works beside it
    outcomes: list[dict[str, Any]] = []
    failed: list[str] = []
    for dataset in wanted:
        if outliers := settings.dataset(dataset).outliers:
            build_dataset(outliers)
        hashes = build_dataset(dataset)
        md5 = hashes["manifest"]
        panel = judge.submit(dataset, md5)
        trained = {seed: [_trained(dataset, name, seed, md5, stages[name]) for name in methods] for seed in drawn}
        wait([panel])  # the gate asks it
        if not panel.state.is_completed():
            failed.append(f"the judge of {dataset}: {panel.state.message}")
        for seed in drawn:
            challengers = register.map(unmapped(dataset), methods, unmapped(seed), trained[seed])
            held = [bool(settings.trained_explainers(dataset, name)) for name in methods]
            judged = gate.map(unmapped(dataset), challengers, held).result()
            outcomes += judged
            for name, outcome in zip(methods, judged, strict=True):
                explained, trouble = _explainers(dataset, outcome, settings.trained_explainers(dataset, name))
                outcomes += explained
                failed += trouble
    report_gate(outcomes)
    if failed:
        raise WorkFailed(
            f"{len(failed)} explainers or judges were not trained; the detectors are gated",
            seen=failed[0][:500],
            next_step="mend the cause and run the same command again: only what is missing is done",
        )
    return outcomes


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


def _explainers(dataset: str, outcome: dict[str, Any], names: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Train, register and gate explainers for the version that is to serve, then put all of it into service.

    Returns the verdicts on them, and what went wrong.
    """
    if not names or outcome["serves"] is None:
        return [], []
    model, version = outcome["model"], outcome["serves"]
    trained = {name: train_explainer_of.submit(dataset, model, version, name) for name in names}
    registered = {name: register_explainer_of.submit(dataset, model, version, name, trained[name]) for name in names}
    wait(list(registered.values()))
    found = [one.result() for one in registered.values() if one.state.is_completed()]
    trouble = [
        f"{model} version {version}, {name}: {_said(trained[name], one)}"
        for name, one in registered.items()
        if not one.state.is_completed()
    ]
    serving = put_in_service_of(outcome)
    return [{**one, "in_service": serving.get(one["model"]) == one["version"]} for one in found], trouble


def _said(trained: PrefectFuture[Any], registered: PrefectFuture[Any]) -> str:
    """The message of whichever of the two failed first."""
    return str(next(one.state.message for one in (trained, registered) if not one.state.is_completed()))
