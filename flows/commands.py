"""The commands that run flows: demo, retrain, explain. Prefect is imported only when one of them runs."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click

from xadflow.errors import WorkFailed, WrongUse, XadflowError
from xadflow.gate import APART, CHANGE_OF_NORMALS, FRECHET, LIKENESS
from xadflow.progress import progress_board
from xadflow.settings import Home, interactive_environment, load_settings

_REACH_S = 5.0
_DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command()
@click.option("--dataset", "datasets", multiple=True, help="Data set to train on; default: retrain.datasets.")
@click.option("--detector", "detectors", multiple=True, help="Detector to train; default: retrain.detectors.")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0),
              help="Seed to train with, a version for each; default: retrain.seeds, else seed.")
@click.option("--json", "as_json", is_flag=True, help="Print the gate's verdicts as JSON.")
def retrain(datasets: tuple[str, ...], detectors: tuple[str, ...], seeds: tuple[int, ...], as_json: bool) -> None:
    """Train, evaluate, gate and register detectors; what did not change is not trained again.

    \b
    Examples:
      xadflow retrain
      xadflow retrain --dataset textures-brick --detector fcdd
      xadflow retrain --dataset fashion-mnist-3 --detector hsc --seed 0 --seed 1 --seed 2
    """
    outcomes = _run_retrain(list(datasets), list(detectors), list(seeds))
    if as_json:
        click.echo(json.dumps(outcomes, default=str))
        return
    _say_gate(outcomes)


def _run_retrain(datasets: list[str], detectors: list[str], seeds: list[int] | None = None) -> list[dict[str, Any]]:
    _check_first(datasets, detectors=detectors)
    interactive_environment()
    from flows.retrain import retrain as flow

    with progress_board(), _answered():
        return flow(datasets or None, detectors or None, seeds or None)


def _check_first(datasets: Iterable[str], detectors: Iterable[str] = (), explainers: Iterable[str] = ()) -> None:
    """Settings, names and servers, before Prefect is imported and starts: what is wrong is said in a second."""
    from xadflow.tracking.tracking_store import ask_health, is_server, shown

    home = Home.find()
    settings = load_settings(home.params)
    for look_up, names in ((settings.dataset, datasets), (settings.detector, detectors), (settings.explainer, explainers)):
        for name in names:
            look_up(name)
    if is_server(home.mlflow_uri):
        ask_health(home.mlflow_uri)
    if home.prefect_api_url is not None:
        try:
            urllib.request.urlopen(f"{home.prefect_api_url.rstrip('/')}/health", timeout=_REACH_S).close()
        except urllib.error.HTTPError:
            pass  # it is there; what it wants, Prefect asks it
        except (OSError, ValueError) as err:
            raise _no_prefect(f"{shown(home.prefect_api_url)}: {getattr(err, 'reason', err)}") from err


@contextmanager
def _answered() -> Iterator[None]:
    """Say in our words that no Prefect server answered: Prefect raises a bare RuntimeError or an httpx error."""
    try:
        yield
    except XadflowError:
        raise
    except Exception as err:
        said = f"{type(err).__name__}: {err}"
        if "ephemeral Prefect API server" in said or "ConnectError" in said or "Failed to reach API" in said:
            raise _no_prefect(said[:200]) from err
        raise


def _no_prefect(said: str) -> WorkFailed:
    return WorkFailed("no Prefect server answered", seen=said, next_step="run `xadflow doctor`; start servers by "
                      "`make server`, or unset PREFECT_API_URL to let each run start its own")  # fmt: skip


def _say_gate(outcomes: list[dict[str, Any]]) -> None:
    for one in outcomes:
        what = "trained" if one["trained"] else "unchanged, not trained again"
        place = "champion" if one.get("in_service", one["passed"]) else "not in service" if "explains" in one else "challenger"
        click.echo(f"{one['model']} version {one['version']}: {what}; {place}")
        for reason in one["reasons"]:
            click.echo(f"  {reason}")
        if not one["passed"]:
            click.echo(f"  to put it into service all the same: xadflow models promote {one['model']} {one['version']}")


@click.command()
@click.option("--dataset", "datasets", multiple=True, help="Data set to explain; default: explain.datasets.")
@click.option("--date", "day", type=_DAY, help="Day of the run (partition run_date); default: today, UTC.")
@click.option("--inbox", type=click.Path(path_type=Path), help="Folder of new images, for one --dataset.")
@click.option("--backfill", nargs=2, type=_DAY, metavar="FROM TO", help="Images the inbox brought on these days.")
@click.option("--detector", "detectors", multiple=True,
              help="Detector whose champion explains; default: those of retrain.detectors that have one.")
@click.option("--explainer", "explainers", multiple=True,
              help="Explainer to run; default: explain.explainers and those trained for the detector.")
@click.option("--only-inbox", is_flag=True, help="Leave out the data set's own test images.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def explain(
    datasets: tuple[str, ...], day: Any, inbox: Path | None, backfill: tuple[Any, Any] | None, detectors: tuple[str, ...],
    explainers: tuple[str, ...], only_inbox: bool, as_json: bool,
) -> None:
    """Score images that have no row yet with the champion, explain the anomalous ones, append to the tables.

    Without --inbox: the data set's test images and what lies in var/inbox/<dataset>.

    \b
    Examples:
      xadflow explain
      xadflow explain --dataset screws --inbox /camera/today
      xadflow explain --dataset fashion-mnist-3 --detector hsc
      xadflow explain --dataset screws --backfill 2026-11-01 2026-11-07
    """
    if inbox is not None and len(datasets) != 1:
        raise WrongUse("--inbox needs exactly one --dataset", seen=list(datasets), next_step="name the data set")
    if inbox is not None and not inbox.is_dir():
        raise WrongUse("--inbox is not a folder", seen=str(inbox), next_step="name a folder of images")
    days = _days(*backfill) if backfill else None
    results = _run_explain(
        list(datasets), day.date() if day else None, inbox, None, days, only_inbox, list(explainers), list(detectors)
    )
    if as_json:
        click.echo(json.dumps(results, default=str))
        return
    _say_explained(results)


def _days(first: Any, last: Any) -> list[date]:
    start, count = first.date(), (last.date() - first.date()).days + 1
    if count < 1:
        raise WrongUse("--backfill goes from an earlier to a later day", seen=f"{first:%F} {last:%F}",
                       next_step="swap the days")  # fmt: skip
    return [start + timedelta(days=i) for i in range(count)]


def _run_explain(
    datasets: list[str],
    day: date | None,
    inbox: Path | None,
    sample: tuple[int, int] | None,
    days: list[date] | None = None,
    only_inbox: bool = False,
    explainers: list[str] | None = None,
    detectors: list[str] | None = None,
) -> list[dict[str, Any]]:
    _check_first(datasets, detectors or (), explainers or ())
    interactive_environment()
    from flows.explain import explain as flow

    with progress_board(), _answered():
        folder = str(inbox.resolve()) if inbox else None
        return flow(datasets or None, day, folder, sample, days, only_inbox, explainers or None, detectors or None)


def _say_explained(results: list[dict[str, Any]]) -> None:
    for one in results:
        for name, value in one["figures"].items():
            click.echo(f"  {name:<28} {value:.4g}" if isinstance(value, float) else f"  {name:<28} {value}")
        for name, why in one["left_out"].items():
            click.echo(f"  {name} did not run: {why}")
        click.echo(f"  report                       {one['report']}")


def _say_quality(outcomes: list[dict[str, Any]]) -> None:
    """Figures on split `test` of each version, as its MLflow run holds them."""
    from tasks.runtime import open_project

    registry = open_project().registry
    for one in outcomes:
        logged = registry.figures(registry.resolve(f"{one['model']}/{one['version']}"))
        if "explains" in one:  # a trained explainer: test images are shown to people, no figure of them is kept
            _say_generator(one["model"].rpartition(".")[2], logged)
            continue
        test = {name.removeprefix("test."): value for name, value in logged.items() if name.startswith("test.")}
        click.echo(
            f"  test: AUROC {test['auroc']:.3f} [{test['auroc_low']:.3f}, {test['auroc_high']:.3f}] over "
            f"{test['normals']:.0f} normals and {test['anomalies']:.0f} anomalies; at the threshold recall "
            f"{test['recall']:.3f}, false alarms {test['false_alarm_rate']:.3f}"
        )


def _say_generator(name: str, logged: Mapping[str, float]) -> None:
    """Figures of a trained explainer on split `gate`, as its MLflow run holds them."""
    gate = {figure.removeprefix("gate."): value for figure, value in logged.items() if figure.startswith("gate.")}

    def told(start: str) -> str:
        each = sorted((key.removeprefix(start), value) for key, value in gate.items() if key.startswith(start))
        return ", ".join(f"{key}: {value:.3f}" for key, value in each)

    click.echo(f"  {name}, on the gate split ({gate.get('anomalies', 0):.0f} anomalies, {gate.get('normals', 0):.0f} normals), "
               f"trained in {logged.get('fit.seconds', float('nan')):.0f} s")  # fmt: skip
    for what, value in (
        ("share normal, by concept", told("share_normal_of.")),
        ("share normal, by others", told("share_normal_by.") or "no other detector of this data set is in service"),
        *((what, f"{gate[figure]:.3g}{unit}") for what, figure, unit in (
            ("distance to normals", FRECHET, " % of that of the anomalies"), ("likeness of two edits", LIKENESS, " (cosine)"),
            ("apart", APART, " mean difference of two of an image"),
            ("change of normals", CHANGE_OF_NORMALS, " of that of the anomalies"),
        ) if figure in gate),
    ):  # fmt: skip
        click.echo(f"    {what:<26} {value}")


def _real_anomalies_explained(dataset: str) -> tuple[int, dict[str, int]]:
    """How many labelled anomalies of a data set have a row of every explainer in use, of the present champion; and of each."""
    from tasks.runtime import open_project
    from xadflow.data.manifest import read_manifest
    from xadflow.nightly.chosen import choose_explainers

    project = open_project()
    detector = project.settings.retrain.detectors[0]
    champion = project.registry.champion(f"xad.{dataset}.{detector}")
    explained = project.store.explained(champion.name, champion.version)
    versions = choose_explainers(project.home, project.settings, project.registry, dataset, detector, champion).versions
    anomalous = {row.image_id for row in read_manifest(project.home.dataset(dataset)).rows(label=1)}
    of_each = {name: sum((one, name, version) in explained for one in anomalous) for name, version in versions.items()}
    return sum(all((one, name, version) in explained for name, version in versions.items()) for one in anomalous), of_each


@click.command()
def demo() -> None:
    """Run the whole loop on real solar-cell images (ELPV), from data to audited explanations.

    Builds the data set with DVC, trains and registers a champion and a generator of counterfactuals for it, explains
    labelled test images as if they were a night's arrivals, and says where everything is. A generator that the gate
    refuses explains nothing; its measures and the reason are printed. A second run does only what changed.

    \b
    Example:
      xadflow demo
    """
    home = Home.find()
    settings = load_settings(home.params)
    dataset = settings.demo.dataset
    started = time.perf_counter()
    click.echo(f"1/3  data and detector: {dataset}")
    outcomes = _run_retrain([dataset], [])
    _say_gate(outcomes)
    _say_quality(outcomes)
    trained_s = time.perf_counter() - started
    click.echo(f"2/3  a night: {settings.demo.anomalies} anomalous and {settings.demo.normals} normal test images")
    results = _run_explain([dataset], None, None, (settings.demo.anomalies, settings.demo.normals))
    _say_explained(results)
    by_all, of_each = _real_anomalies_explained(dataset)
    counts = ", ".join(f"{name} ({count})" for name, count in of_each.items())
    click.echo(f"  real anomalies explained     {by_all}, by each of {counts}")
    explained_s = time.perf_counter() - started - trained_s
    click.echo("3/3  where everything is")
    for what, where in (
        ("tables", home.tables),
        ("report", results[0]["report"]),
        ("MLflow", f"mlflow ui --backend-store-uri {home.mlflow_uri}"),
        ("data", home.dataset(dataset)),
        ("audit", "xadflow audit verify"),
        ("servers and schedules", "make server"),
    ):
        click.echo(f"  {what:<28} {where}")
    click.echo(f"work {time.perf_counter() - started:.0f} s (data, training, registry {trained_s:.0f} s; "
               f"night {explained_s:.0f} s)")  # fmt: skip
