"""`xadflow models`: list, compare, promote, roll back and recalibrate what is registered."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import click

from xadflow.cli.printing import print_table
from xadflow.progress import moment_text
from xadflow.project import Project
from xadflow.settings import check_writable

if TYPE_CHECKING:
    from xadflow.models.registry import Registry
    from xadflow.models.service import Moved
    from xadflow.models.versions import ModelSummary, VersionSummary

_KEY_FIGURES = ("test.auroc", "gate.auroc", "gate.flip_rate", "gate.change_inside", "gate.share_normal", "gate.frechet")
_TRANSFER = ("gate.transplant.transfer", "gate.transfer")  # of a detector's transplants, of a trained explainer


@click.group()
def models() -> None:
    """List, compare, promote, roll back and recalibrate registered models."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a version.")
def list_models(as_json: bool) -> None:
    """Show every version with its aliases, key figures and the gate's verdict.

    A trained explainer is a model of its own, named after its detector; `explains` is the version it belongs to.
    `false alarms` is the share of new normals that may be flagged, with the version that one was recalibrated from.
    `transfer` is the share of counterfactuals that the data set's judge, where it flags the image too, calls normal: of
    a detector's transplants, or of the trained explainer. xad.<dataset>.judge is that judge; it never serves.

    \b
    Example:
      xadflow models list
    """
    found = _registry().models()
    if as_json:
        for model in found:
            for row in _rows(model):
                click.echo(json.dumps(row))
        return
    if not any(model.versions for model in found):
        click.echo("no model is registered yet; run `xadflow retrain`")
        return
    from rich.table import Table

    columns = ("model", "version", "explains", "aliases", "gate", "false alarms")
    table = Table(*columns, *_KEY_FIGURES, "transfer", "created")
    for model in found:
        for version in model.versions:
            table.add_row(
                model.name,
                str(version.version),
                "-" if version.explains is None else f"version {version.explains}",
                ", ".join(_aliases(model, version.version)),
                version.verdict or "-",
                _rate(version),
                *(_figure(version.figures.get(name)) for name in _KEY_FIGURES),
                _figure(_transfer(version)),
                moment_text(version.created),
            )
    print_table(table)


@models.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
def promote(name: str, version: int) -> None:
    """Make VERSION of NAME the champion, whatever the gate said; the next `explain` uses it.

    A detector takes the explainers that were trained for this version along.

    \b
    Example:
      xadflow models promote xad.elpv.fcdd 3
    """
    from xadflow.models.service import put_in_service

    moved = put_in_service(_writable_registry(), name, version)
    click.echo(f"{name}: champion is version {version}{f', was {moved.before}' if moved.before else ''}")
    _say_explainers(moved)


@models.command()
@click.argument("name")
def rollback(name: str) -> None:
    """Make the previous champion of NAME champion again, with its explainers; a second rollback undoes the first.

    \b
    Example:
      xadflow models rollback xad.elpv.fcdd
    """
    from xadflow.models.service import roll_back

    moved = roll_back(_writable_registry(), name)
    click.echo(f"{name}: champion is version {moved.version} again")
    _say_explainers(moved)


@models.command()
@click.argument("name")
@click.option(
    "--false-alarm-rate",
    "rate",
    required=True,
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Share of new normal images that may be flagged, e.g. 0.02.",
)
def recalibrate(name: str, rate: float) -> None:
    """Give the champion of NAME another false-alarm rate, without training: a new version, through the gate.

    Its weights are the same; threshold and temperature are fitted anew on held-out images, and donors chosen anew. NAME
    may also be a version: name@alias or name/3. The next `xadflow retrain` has the rate of params.yaml again, and says
    so; what to write there to keep this one is printed.

    \b
    Example:
      xadflow models recalibrate xad.elpv.fcdd --false-alarm-rate 0.02
    """
    from xadflow.progress import progress_board
    from xadflow.work.week.recalibration import recalibrate as recalibrated

    project = Project.open()
    _check_writable(project)
    with progress_board():
        found = recalibrated(project, name, rate)
    ref, before, after = found.ref, found.before, found.after
    click.echo(
        f"{ref.name}: version {ref.version} is version {found.source.version} at a false-alarm rate of {rate:g}, was "
        f"{before.false_alarm_rate:g}; threshold {after.threshold:.4f}, was {before.threshold:.4f}"
    )
    for reason in found.outcome.reasons:
        click.echo(f"  {reason}")
    if found.moved is not None:
        click.echo(f"{ref.name}: champion is version {ref.version}")
        _say_explainers(found.moved)
    else:
        how = "once you have looked at it" if found.outcome.unmeasured else "all the same"
        click.echo(f"  to put it into service {how}: xadflow models promote {ref.name} {ref.version}")
    if found.line is not None:
        click.echo(f"to keep it over the next retrain, put {found.line}")


@models.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def compare(first: str, second: str, as_json: bool) -> None:
    """Show the figures of two versions side by side; A and B are name@alias or name/3.

    How long something took hangs on the machine and on what else ran there, so it stands in a table of its own; in JSON
    its `kind` is time.

    \b
    Example:
      xadflow models compare xad.elpv.fcdd@champion xad.elpv.fcdd@challenger
    """
    registry = _registry()
    left, right = (registry.figures(registry.resolve(spec)) for spec in (first, second))
    names = sorted(left.keys() | right.keys())
    if as_json:
        kinds = {True: "time", False: "figure"}
        found = {one: {"a": left.get(one), "b": right.get(one), "kind": kinds[is_time(one)]} for one in names}
        click.echo(json.dumps(found))
        return
    from rich.table import Table

    figures, times = Table("figure", first, second, "difference"), Table("time (s)", first, second, "difference")
    for name in names:
        a, b = left.get(name), right.get(name)
        difference = "" if a is None or b is None else f"{b - a:+.4g}"
        row = (name, *("-" if value is None else f"{value:.6g}" for value in (a, b)), difference)
        (times if is_time(name) else figures).add_row(*row)
    for table in (figures, times):
        if table.row_count:
            print_table(table)


def is_time(figure: str) -> bool:
    """Whether a figure of a run says how long something took, or how much was done in a second.

    >>> [is_time(one) for one in ("fit.seconds", "fit.head_s", "night.images_per_s", "test.auroc", "fit.steps")]
    [True, True, True, False, False]
    """
    return figure.endswith("_s") or figure.rpartition(".")[2] in ("seconds", "minutes")


def _say_explainers(moved: Moved) -> None:
    for model, version in moved.explainers.items():
        click.echo(
            f"{model}: "
            + (
                f"champion is version {version}"
                if version is not None
                else f"no champion, none that passed the gate and can be loaded explains version {moved.version}"
            )
        )


def _registry() -> Registry:
    return Project.open().registry


def _writable_registry() -> Registry:
    """The models, for a command that moves an alias. Raises CannotWrite as :func:`_check_writable`."""
    project = Project.open()
    _check_writable(project)
    return project.registry


def _check_writable(project: Project) -> None:
    """Raises CannotWrite where the embedded store cannot be written."""
    from xadflow.models.tracking_store import is_server

    if not is_server(project.home.mlflow_uri):
        check_writable(project.home)


def _aliases(model: ModelSummary, version: int) -> list[str]:
    return sorted(alias for alias, number in model.aliases.items() if number == version)


def _transfer(version: VersionSummary) -> float | None:
    """What the gate measured of it; None where it was not asked, or the judge flags too few images itself."""
    found = next((version.figures[name] for name in _TRANSFER if name in version.figures), math.nan)
    return found if math.isfinite(found) else None


def _rate(version: VersionSummary) -> str:
    """The false-alarm rate that a threshold was fitted for, and of which version it was recalibrated."""
    rate = version.figures.get("calibration.false_alarm_rate")
    source = version.recalibrated_from
    return ("-" if rate is None else f"{rate:g}") + (f", from {source}" if source is not None else "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _rows(model: ModelSummary) -> list[dict[str, object]]:
    return [
        {
            "model": model.name,
            "version": one.version,
            "aliases": _aliases(model, one.version),
            "gate": one.verdict,
            "explains": one.explains,
            "recalibrated_from": one.recalibrated_from,
            "transfer": _transfer(one),
            "figures": dict(one.figures),
            "run_id": one.run_id,
            "created": one.created.isoformat(),
        }
        for one in model.versions
    ]
