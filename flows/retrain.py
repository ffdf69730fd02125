"""The weekly flow: data set stages, then train, register and gate each detector.

    prefect deployment run 'retrain/weekly'      or      xadflow retrain --dataset elpv
"""

from __future__ import annotations

from typing import Any

from prefect import flow, unmapped

from tasks.dataset import build_dataset
from tasks.publishing import notify_failure, report_gate
from tasks.registry import gate, register
from tasks.runtime import ensure_limits, local_runner
from tasks.training import train
from xadflow.settings import Home, load_settings, quiet_environment


@flow(
    name="retrain", task_runner=local_runner(), on_failure=[notify_failure],
    on_crashed=[notify_failure],
)  # fmt: skip
def retrain(
    datasets: list[str] | None = None, detectors: list[str] | None = None, seeds: list[int] | None = None
) -> list[dict[str, Any]]:
    """Bring data sets up to date and train, register and gate each detector on them; returns the gate's verdicts.

    Defaults come from `retrain` in params.yaml. What did not change is not trained again. Trainings of all detectors and
    seeds run side by side as the limit `gpu` allows; the seeds are versions of one model, so they are gated in turn.
    """
    home = Home.find()
    quiet_environment(home)
    settings = load_settings(home.params)
    wanted = datasets or list(settings.retrain.datasets)
    methods = detectors or list(settings.retrain.detectors)
    drawn = list(dict.fromkeys(seeds or settings.retrain.seeds or (settings.seed,)))
    for name in wanted:
        settings.dataset(name)  # an unknown name stops the run before any work
    for name in methods:
        settings.detector(name)
    ensure_limits()
    outcomes: list[dict[str, Any]] = []
    for dataset in wanted:
        if outliers := settings.dataset(dataset).outliers:
            build_dataset(outliers)
        hashes = build_dataset(dataset)
        trained = {seed: train.map(unmapped(dataset), methods, unmapped(seed), unmapped(hashes["manifest"])) for seed in drawn}
        for seed in drawn:
            challengers = register.map(unmapped(dataset), methods, unmapped(seed), trained[seed])
            outcomes += gate.map(unmapped(dataset), challengers).result()
    report_gate(outcomes)
    return outcomes
