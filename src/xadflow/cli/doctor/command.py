"""`xadflow doctor`: what is there, what is missing, and the command that mends it. Imports neither torch
nor Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

import click

from xadflow.cli.doctor import checks as machine
from xadflow.cli.doctor import data as doctor_data
from xadflow.cli.doctor import evidence as doctor_evidence
from xadflow.cli.doctor import models as doctor_models
from xadflow.cli.doctor import prefect as doctor_prefect
from xadflow.cli.doctor.checks import Finding
from xadflow.errors import BadSettings
from xadflow.project import Project
from xadflow.settings import Home

_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@dataclass(frozen=True)
class Diagnosis:
    """All findings; the worst one decides `level`."""

    level: Literal["ok", "warn", "fail"]
    findings: tuple[Finding, ...]


def examine(project: Project) -> Diagnosis:
    """Run every check; one that breaks is a finding itself, so that the others are still reported."""
    of_home: list[Callable[[Home], Iterator[Finding]]] = [
        machine.packages,
        machine.device,
        machine.disk,
        machine.privacy,
        doctor_models.mlflow_database,
        doctor_models.moved,
        doctor_prefect.prefect_server,
        machine.weights,
        doctor_data.data_remote,
        doctor_prefect.schedules,
        doctor_evidence.tables,
        doctor_evidence.ledger,
    ]
    of_project: list[Callable[[Project], Iterator[Finding]]] = [
        doctor_prefect.webhook,
        doctor_data.datasets,
        doctor_models.champions,
        doctor_models.judges,
        doctor_evidence.anchor_file,
    ]
    works: list[Callable[[], list[Finding]]] = [lambda check=check: list(check(project.home)) for check in of_home]  # type: ignore[misc]
    findings: list[Finding] = []
    try:
        settings = project.settings
    except BadSettings as err:
        findings.append(Finding("params.yaml", "fail", f"{err.wrong}; got {err.seen!r}", err.next_step))
    else:
        findings.append(Finding("params.yaml", "ok", f"{len(settings.catalogue)} data sets"))
        works += [lambda check=check: list(check(project)) for check in of_project]  # type: ignore[misc]
    with ThreadPoolExecutor(4) as pool:  # most of the time is waiting for disk and servers
        for found in pool.map(_guarded, works):
            findings += found
    levels = {finding.level for finding in findings}
    return Diagnosis("fail" if "fail" in levels else "warn" if "warn" in levels else "ok", tuple(findings))


def _guarded(work: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return work()
    except Exception as err:  # a broken check must not hide the others
        return [Finding("doctor", "fail", f"a check broke: {type(err).__name__}: {err}"[:300], "report this")]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check versions, device, disk, servers, data, models and tables; exit status 1 if anything fails.

    \b
    Example:
      xadflow doctor
    """
    diagnosis = examine(Project.open())
    if as_json:
        click.echo(json.dumps({"level": diagnosis.level, "findings": [asdict(one) for one in diagnosis.findings]}))
    else:
        for one in diagnosis.findings:
            mark, colour = _MARKS[one.level]
            click.echo(f"{click.style(mark, fg=colour)}  {one.what:<18} {one.said}")
            if one.mend:
                click.echo(f"{'':25}-> {one.mend}")
    if diagnosis.level == "fail":
        context.exit(1)
