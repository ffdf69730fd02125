"""`xadflow probe`: plant a watermark, train, and say how much of the heat and of the AUROC hangs on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from xadflow.errors import WrongUse
from xadflow.project import Project

if TYPE_CHECKING:
    from collections.abc import Mapping

RATES = (0.0, 0.1, 0.5, 1.0)


@click.command()
@click.option("--dataset", required=True, help="Data set to probe on; it has to be built.")
@click.option("--detector", required=True, help="Detector of params.yaml.")
@click.option(
    "--side",
    type=click.Choice(["outliers", "normals"]),
    default="outliers",
    show_default=True,
    help="Which training images get the mark.",
)
@click.option(
    "--rate",
    "rates",
    type=float,
    multiple=True,
    help="Share of them that gets it; others may follow, and 0 is always there: it is the control. "
    f"Default: {' '.join(f'{rate:g}' for rate in RATES)}.",
)
@click.argument("more_rates", nargs=-1, type=float, metavar="[RATE]...")
@click.option(
    "--seeds", type=click.IntRange(1, 20), default=1, show_default=True, help="How many trainings of each rate."
)
@click.option("--quick", is_flag=True, help="Short trainings of a small network, 100 test images of each class.")
@click.option("--json", "as_json", is_flag=True, help="Print the report, which probe.json holds too.")
def probe(
    dataset: str,
    detector: str,
    side: str,
    rates: tuple[float, ...],
    more_rates: tuple[float, ...],
    seeds: int,
    quick: bool,
    as_json: bool,
) -> None:
    """Plant a watermark in training images, train, and measure how much the detector hangs on it.

    Exit status 0 whatever the verdict. Trainings are kept: the same command again only reads them, and a stopped one
    goes on. docs/how-to/probe-for-shortcuts.md says what the figures mean.

    \b
    Examples:
      xadflow probe --dataset textures-brick --detector fcdd_conv --quick
      xadflow probe --dataset fashion-mnist-3 --detector hsc --rate 0 0.5 1 --seeds 3
      xadflow probe --dataset fashion-mnist-3 --detector dsvdd --side normals --json

    \b
    Writes under var/probe/<dataset>-<detector>/:
      probe.json   every figure, with intervals and the control beside it
      probe.png    marked images, heatmaps with the mark outlined, curves over the rates
    \f
    Many parameters: one for each option of the command.
    """
    if more_rates and not rates:
        raise WrongUse(
            "a number without an option in front of it", seen=more_rates[0], next_step="write --rate 0 0.5 1"
        )
    project = Project.open()
    settings = project.settings
    settings.dataset(dataset)
    chosen = settings.detector(detector)

    from xadflow.datasets.in_use import using
    from xadflow.progress import progress_board, track
    from xadflow.work.probe import ProbePlan, run_probe
    from xadflow.work.probe.run import QUICK, QUICK_TEST_IMAGES

    plan = ProbePlan(
        dataset,
        detector,
        side="outliers" if side == "outliers" else "normals",
        rates=(*rates, *more_rates) or RATES,
        seeds=tuple(settings.seed + number for number in range(seeds)),
        settings=QUICK.get(chosen.method, {}) if quick else {},
        most_test_images=QUICK_TEST_IMAGES if quick else None,
    )
    with progress_board(), using(project.home, [dataset]):
        outcome = run_probe(project, plan, track)
    if as_json:
        click.echo(json.dumps(outcome.report, sort_keys=True))
        return
    _say(outcome.report)
    kept = len(plan.checked().rates) * seeds - outcome.trained
    click.echo(f"{outcome.trained} trained, {kept} kept from before; written to {outcome.folder}")


def _say(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "rate", "heat in the mark", "control", "AUROC, no mark", "as planted", "other side", "control", "alarm"
    )
    for row in report["rates"]:
        heat, auroc = row["heat"]["planted_side"], row["auroc"]
        table.add_row(
            f"{row['rate']:g}",
            _with_interval(heat["share"], heat),
            f"{heat['control']:.3f}",
            *(_with_interval(auroc[copy]["value"], auroc[copy]) for copy in ("raw", "planted", "other_side")),
            f"{auroc['other_side']['control']:.3f}",
            ", ".join(row["alarm"]) or "-",
        )
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    click.echo(f"chance for the heat: {report['rates'][0]['heat']['chance']:.3f}, the mark's share of an image")
    ties = max(auroc["tied_share"] for row in report["rates"] for auroc in row["auroc"].values())
    if ties > 0:
        click.echo(f"tied scores: up to {ties:.2%} of the (anomaly, normal) pairs")
    for note in report["notes"]:
        click.echo(f"note: {note}")
    click.secho("ALARM: the detector learned the mark" if report["alarm"] else "no alarm", bold=True)


def _with_interval(value: float, ends: Mapping[str, float]) -> str:
    return f"{value:.3f} [{ends['low']:.3f}, {ends['high']:.3f}]"
