"""`xadflow models list` says how many counterfactuals a judge calls normal, of detectors and of trained explainers."""

from __future__ import annotations

import datetime as dt
import json
import math
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from xadflow.cli import models as commands
from xadflow.models.versions import ModelSummary, VersionSummary

FIGURES = {
    "xad.cell.fcdd": {"gate.auroc": 0.9, "gate.transplant.transfer": 0.75, "gate.sparse.transfer": 0.125},
    "xad.cell.fcdd.diverse": {"gate.transfer": 0.625},
    "xad.cell.hsc": {"gate.transplant.transfer": math.nan},  # the judge flags too few images itself
    "xad.cell.judge": {},
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    made = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
    found = [
        ModelSummary(name, {}, (VersionSummary(1, "run", made, figures, ""),)) for name, figures in FIGURES.items()
    ]
    monkeypatch.setattr(commands, "_registry", lambda: SimpleNamespace(models=lambda: found))


def test_the_json_form_has_the_transfer_or_null() -> None:
    lines = CliRunner().invoke(commands.models, ["list", "--json"]).output.splitlines()
    told = {row["model"]: row["transfer"] for row in map(json.loads, lines)}
    assert told == {"xad.cell.fcdd": 0.75, "xad.cell.fcdd.diverse": 0.625, "xad.cell.hsc": None, "xad.cell.judge": None}


def test_the_table_has_a_column_for_it() -> None:
    said = CliRunner().invoke(commands.models, ["list"]).output
    header, *rows = (line for line in said.splitlines() if "│" in line or "┃" in line)
    place = [word.strip() for word in header.split("┃")].index("transfer")
    shown = {cells[1]: cells[place] for cells in ([cell.strip() for cell in row.split("│")] for row in rows)}
    assert shown == {
        "xad.cell.fcdd": "0.7500",
        "xad.cell.fcdd.diverse": "0.6250",
        "xad.cell.hsc": "-",
        "xad.cell.judge": "-",
    }
