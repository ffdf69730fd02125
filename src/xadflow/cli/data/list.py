"""`xadflow data list`: the data sets of the project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from xadflow.cli.printing import print_table, printable
from xadflow.errors import RegistryUnavailable
from xadflow.progress import moment_text
from xadflow.project import Project

if TYPE_CHECKING:
    from xadflow.datasets.listing import DatasetSummary

_SPLITS = ("train", "val", "gate", "test", "known")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a data set; its time is UTC.")
def list_command(as_json: bool) -> None:
    """Show each data set: where it comes from, its images by split, masks, refused files, and what serves it.

    Images are counted as normal + anomalous. `brought in` is when its images were last brought in, or pulled, on this
    machine; a data set without is not built here, `dvc repro validate@NAME` does that.

    \b
    Example:
      xadflow data list
    """
    from xadflow.datasets.listing import list_datasets

    project = Project.open()
    found = list_datasets(project.home, project.settings)
    serving = _champions(project)
    if as_json:
        for one in found:
            row = {**vars(one), "built": one.built and one.built.isoformat(), "champions": serving.get(one.name, [])}
            click.echo(json.dumps(row))
        return
    from rich.table import Table

    columns = ("data set", "comes from", *_SPLITS, "masks", "quarantine", "brought in", "champion")
    table = Table(*columns)
    for one in found:
        table.add_row(*_row(one), ", ".join(serving.get(one.name, [])) or "-")
    print_table(table)


def _row(one: DatasetSummary) -> list[str]:
    origin = printable(one.origin) if one.is_there else f"{printable(one.origin)} (not on this machine)"
    if one.built is None:
        return [one.name, origin, *("-" for _ in _SPLITS), "-", "-", one.fault or "not built"]
    refused = ", ".join(f"{count} {reason}" for reason, count in one.quarantine.items())
    counts = (_count(one.counts.get(split, {})) for split in _SPLITS)
    return [one.name, origin, *counts, str(one.masks), refused or "-", moment_text(one.built)]


def _count(kinds: Mapping[str, int]) -> str:
    """Normal + anomalous images of a split, and those that nobody has labelled.

    >>> _count({"normal": 12, "anomalous": 3}), _count({"normal": 12}), _count({"unlabelled": 2}), _count({})
    ('12 + 3', '12', '2 unlabelled', '-')
    """
    known = [str(kinds.get("normal", 0))] if "normal" in kinds or "anomalous" in kinds else []
    known += [str(kinds["anomalous"])] if "anomalous" in kinds else []
    parts = [" + ".join(known)] if known else []
    parts += [f"{kinds['unlabelled']} unlabelled"] if "unlabelled" in kinds else []
    return ", ".join(parts) or "-"


def _champions(project: Project) -> dict[str, list[str]]:
    """Detectors in service by data set, as `fcdd/3`; none, and a line about it, where MLflow cannot be asked."""
    from xadflow.models.lookup import champions

    found: dict[str, list[str]] = {}
    try:
        for name, version in champions(project.registry).items():
            _, dataset, detector = name.split(".")
            found.setdefault(dataset, []).append(f"{detector}/{version}")
    except RegistryUnavailable as err:
        click.echo(f"which detectors serve is not known: {err}", err=True)
    return found
