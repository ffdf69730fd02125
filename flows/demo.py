"""The command `demo`: the whole loop on data that needs no user, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands import say_explained, say_gate
from flows.running import run_explain, run_retrain
from xadflow.errors import BadSettings
from xadflow.models.gate import APART, CHANGE_OF_NORMALS, FRECHET, LIKENESS
from xadflow.progress import PartTimes
from xadflow.project import Project

if TYPE_CHECKING:
    from xadflow.models.registry import Registry


@click.command()
@click.option(
    "--diverse", is_flag=True, help="On coloured digits, with a generator of several counterfactuals an image."
)
def demo(diverse: bool) -> None:
    """Run the whole loop on real solar-cell images (ELPV), from data to audited explanations.

    Builds the data set with DVC, trains and registers a champion, explains labelled test images as if they were a
    night's arrivals, and says where everything is and where the time went. A second run does only what changed.

    With --diverse the images are coloured digits, and a generator is trained for the detector as well; if the gate
    refuses it, its measures and the reason are printed. That takes longer (see README.md) and needs the digits:
    `xadflow data fetch mnist`.

    \b
    Examples:
      xadflow demo
      xadflow demo --diverse
    """
    project = Project.open()
    home, settings = project.home, project.settings
    chosen = settings.demo.diverse if diverse else settings.demo
    if chosen is None:
        raise BadSettings(
            "params.yaml does not say what the demo with a generator runs on",
            seen="no demo.diverse",
            next_step="add `diverse: {dataset: coloured-mnist, detector: bce}` under demo",
        )
    dataset, detector = chosen.dataset, chosen.detector or settings.retrain.detectors[0]
    started, times = time.perf_counter(), PartTimes()
    click.echo(f"1/3  data and detector: {dataset}, {detector}")
    outcomes = run_retrain([dataset], [detector], times=times)
    say_gate(outcomes)
    _say_quality(project.registry, outcomes)
    click.echo(f"2/3  a night: {chosen.anomalies} anomalous and {chosen.normals} normal test images")
    results = run_explain(
        [dataset], None, None, (chosen.anomalies, chosen.normals), detectors=[detector], is_built=True, times=times
    )
    say_explained(results)
    by_all, of_each = _anomalies_explained(project, dataset, detector)
    counts = ", ".join(f"{name} ({count})" for name, count in of_each.items())
    click.echo(f"  anomalies explained          {by_all}, by each of {counts}")
    click.echo("3/3  where everything is")
    for what, where in (
        ("report, opens offline", _report_to_open(project, dataset, detector, results[0]).as_uri()),
        ("tables", home.tables),
        ("MLflow", f"mlflow ui --backend-store-uri {home.mlflow_uri}"),
        ("data", home.dataset(dataset)),
        ("audit", "xadflow audit verify"),
        ("servers and schedules", "make server"),
    ):
        click.echo(f"  {what:<28} {where}")
    _say_times(times, time.perf_counter() - started)


def _say_times(times: PartTimes, seconds: float) -> None:
    """Where the time went; a part's processor seconds are those of this process and of children that have ended."""
    click.echo(f"  {'where the time went':<28} {'seconds':>7} {'processor':>10}")
    for part, (clock, processor) in times.seconds.items():
        click.echo(f"    {part:<26} {clock:>7.1f} {processor:>10.1f}")
    click.echo(f"work {seconds:.0f} s")


def _report_to_open(project: Project, dataset: str, detector: str, night: Mapping[str, Any]) -> Path:
    """The night's own report; the newest one that shows explanations where this night had nothing to do."""
    if night["figures"]["images"]:
        return Path(night["report"])
    champion = project.registry.champion(f"xad.{dataset}.{detector}")
    rows = project.store.read(
        "explanations", columns=["model_name", "model_version", "run_date", "run_id", "created_at"]
    )
    ours = [
        row
        for row in rows.to_pylist()
        if (row["model_name"], row["model_version"]) == (champion.name, champion.version)
    ]
    for row in sorted(ours, key=lambda row: row["created_at"], reverse=True):
        path = project.home.reports / f"{dataset}-{detector}-{row['run_date']}-{row['run_id'][:8]}.html"
        if path.is_file():
            return path
    return Path(night["report"])


def _say_quality(registry: Registry, outcomes: list[dict[str, Any]]) -> None:
    """Figures on split `test` of each version, as its MLflow run holds them."""
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

    click.echo(
        f"  {name}, on the gate split ({gate.get('anomalies', 0):.0f} anomalies, {gate.get('normals', 0):.0f} "
        f"normals), trained in {logged.get('fit.seconds', float('nan')):.0f} s"
    )
    for what, value in (
        ("share normal, by concept", told("share_normal_of.")),
        ("share normal, by others", told("share_normal_by.") or "no other detector of this data set is in service"),
        *(
            (what, f"{gate[figure]:.3g}{unit}")
            for what, figure, unit in (
                ("distance to normals", FRECHET, " % of that of the anomalies"),
                ("likeness of two edits", LIKENESS, " (cosine)"),
                ("apart", APART, " mean difference of two of an image"),
                ("change of normals", CHANGE_OF_NORMALS, " of that of the anomalies"),
            )
            if figure in gate
        ),
    ):
        click.echo(f"    {what:<26} {value}")


def _anomalies_explained(project: Project, dataset: str, detector: str) -> tuple[int, dict[str, int]]:
    """How many labelled anomalies of a data set have a row of every explainer in use, of the present champion; and of
    each.
    """
    from xadflow.datasets.manifest import read_manifest
    from xadflow.work.night.chosen import choose_explainers

    champion = project.registry.champion(f"xad.{dataset}.{detector}")
    explained = project.store.explained(champion.name, champion.version)
    versions = choose_explainers(project, dataset, detector, champion).versions
    anomalous = {row.image_id for row in read_manifest(project.home.dataset(dataset)).rows(label=1)}
    of_each = {name: sum((one, name, version) in explained for one in anomalous) for name, version in versions.items()}
    return sum(
        all((one, name, version) in explained for name, version in versions.items()) for one in anomalous
    ), of_each
