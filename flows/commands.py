"""The commands `retrain` and `explain`. Prefect is imported only when one of them runs."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click

from flows.running import run_explain, run_retrain
from xadflow.cli.printing import printable
from xadflow.errors import WrongUse
from xadflow.evidence.alarms import open_alarms
from xadflow.models.tags import UNMEASURED
from xadflow.settings import Home

_DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command()
@click.option("--dataset", "datasets", multiple=True, help="Data set to train on; default: retrain.datasets.")
@click.option("--detector", "detectors", multiple=True, help="Detector to train; default: retrain.detectors.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=click.IntRange(min=0),
    help="Seed to train with, a version for each; default: retrain.seeds, else seed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the gate's verdicts as JSON.")
def retrain(datasets: tuple[str, ...], detectors: tuple[str, ...], seeds: tuple[int, ...], as_json: bool) -> None:
    """Train, evaluate, gate and register detectors; what did not change is not trained again.

    \b
    Examples:
      xadflow retrain
      xadflow retrain --dataset textures-brick --detector fcdd
      xadflow retrain --dataset fashion-mnist-3 --detector hsc --seed 0 --seed 1 --seed 2
    """
    outcomes = run_retrain(list(datasets), list(detectors), list(seeds))
    if as_json:
        click.echo(json.dumps(outcomes, default=str))
        return
    say_gate(outcomes)


def say_gate(outcomes: list[dict[str, Any]]) -> None:
    """One line a version, and the rules that it broke."""
    for one in outcomes:
        what = "trained" if one["trained"] else "unchanged, not trained again"
        place = (
            "champion"
            if one.get("in_service", one["passed"])
            else "not in service"
            if "explains" in one
            else "challenger"
        )
        click.echo(f"{one['model']} version {one['version']}: {what}; {place}")
        for line in filter(None, [one.get("pixels"), *one["reasons"]]):
            click.echo(f"  {line}")
        if not one["passed"]:
            how = "once you have looked at it" if one.get("verdict") == UNMEASURED else "all the same"
            click.echo(f"  to put it into service {how}: xadflow models promote {one['model']} {one['version']}")


@click.command()
@click.option("--dataset", "datasets", multiple=True, help="Data set to explain; default: explain.datasets.")
@click.option("--date", "day", type=_DAY, help="Day of the run (partition run_date); default: today, UTC.")
@click.option("--inbox", type=click.Path(path_type=Path), help="Folder of new images, for one --dataset.")
@click.option("--backfill", nargs=2, type=_DAY, metavar="FROM TO", help="Images the inbox brought on these days.")
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    help="Detector whose champion explains; default: those of retrain.detectors that have one.",
)
@click.option(
    "--explainer",
    "explainers",
    multiple=True,
    help="Explainer to run; default: explain.explainers and those trained for the detector.",
)
@click.option("--only-inbox", is_flag=True, help="Leave out the data set's own test images.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def explain(
    datasets: tuple[str, ...],
    day: Any,
    inbox: Path | None,
    backfill: tuple[Any, Any] | None,
    detectors: tuple[str, ...],
    explainers: tuple[str, ...],
    only_inbox: bool,
    as_json: bool,
) -> None:
    """Score images that have no row yet with the champion, explain the anomalous ones, append to the tables.

    Without --inbox: the data set's test images and what lies in var/inbox/<dataset>.

    \b
    Examples:
      xadflow explain
      xadflow explain --dataset screws --inbox /camera/today
      xadflow explain --dataset fashion-mnist-3 --detector hsc
      xadflow explain --dataset screws --backfill 2026-11-01 2026-11-07
    \f
    Many parameters: one for each option of the command.
    """
    if inbox is not None and len(datasets) != 1:
        raise WrongUse("--inbox needs exactly one --dataset", seen=list(datasets), next_step="name the data set")
    if inbox is not None and not inbox.is_dir():
        raise WrongUse("--inbox is not a folder", seen=str(inbox), next_step="name a folder of images")
    days = _days(*backfill) if backfill else None
    results = run_explain(
        list(datasets), day.date() if day else None, inbox, None, days, only_inbox, list(explainers), list(detectors)
    )
    for alarm in open_alarms(Home.find().ledger):
        click.secho(alarm, fg="red", err=True)
    if as_json:
        click.echo(json.dumps(results, default=str))
        return
    say_explained(results)


def _days(first: Any, last: Any) -> list[date]:
    start, count = first.date(), (last.date() - first.date()).days + 1
    if count < 1:
        raise WrongUse(
            "--backfill goes from an earlier to a later day", seen=f"{first:%F} {last:%F}", next_step="swap the days"
        )
    return [start + timedelta(days=i) for i in range(count)]


def say_explained(results: list[dict[str, Any]]) -> None:
    """Figures of each night, which files were refused and why, what did not run in it, and its report."""
    for one in results:
        for name, value in one["figures"].items():
            click.echo(f"  {name:<28} {value:.4g}" if isinstance(value, float) else f"  {name:<28} {value}")
        for reason, (count, first) in one.get("refused", {}).items():
            more = f" and {count - len(first)} more" if count > len(first) else ""
            click.echo(f"    {count} {reason:<24} {printable(', '.join(first))}{more}")
        if one.get("refused"):
            click.echo(f"    all of them, with what was seen: {one['refused_list']}")
        for name, why in one["left_out"].items():
            click.echo(f"  {name} did not run: {why}")
        click.echo(f"  report                       {one['report']}")
