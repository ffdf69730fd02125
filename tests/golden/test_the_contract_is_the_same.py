"""What others hold on to: public imports, entry points, keys of params.yaml, table schemas, MLflow tag names.

`contract.json` is written anew by `XADFLOW_WRITE_GOLDEN=1 pytest tests/golden`; whoever does so says why in the commit.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tests.golden import house

CONTRACT = Path(__file__).parent / "contract.json"

IMPORTS = (
    "xadflow.detectors:Detector",
    "xadflow.detectors:FitReport",
    "xadflow.detectors:FitRun",
    "xadflow.detectors:Scores",
    "xadflow.detectors:TrainingData",
    "xadflow.detectors:as_float",
    "xadflow.detectors:build_detector",
    "xadflow.detectors:detector_names",
    "xadflow.detectors:load_detector",
    "xadflow.explainers:build_explainer",
    "xadflow.explainers.sparse:linear_maximisation_oracle",
)

TAGS = (
    "data_md5",
    "donors",
    "explains_version",
    "explains_weights",
    "files",
    "gate",
    "gate_features",
    "gate_key",
    "gate_reasons",
    "judge_apart",
    "kind",
    "ledger",
    "mark",
    "model_name",
    "model_version",
    "previous_champion",
    "promoted",
    "recalibrated_from",
    "rows_digest",
    "training_key",
    "weights",
)
"""Of MLflow's runs and versions, its experiment `xadflow.ledger`; `mark`, `rows_digest` of commits to the tables."""

GROUPS = {"console_scripts", "xadflow.commands", "xadflow.detectors", "xadflow.explainers"}


def _entry_points() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in distribution("xadflow").entry_points:
        found.setdefault(entry.group, []).append(entry.name)
    return {group: sorted(names) for group, names in sorted(found.items())}


def _plain(part: Any, schema: dict[str, Any]) -> Any:
    """A JSON schema without words and with every reference put in its place."""
    if isinstance(part, dict):
        if "$ref" in part:
            part = {
                **schema["$defs"][part["$ref"].rpartition("/")[2]],
                **{k: v for k, v in part.items() if k != "$ref"},
            }
        return {
            key: _properties(value, schema) if key == "properties" else _plain(value, schema)
            for key, value in part.items()
            if key not in ("title", "description", "$defs")
        }
    return [_plain(one, schema) for one in part] if isinstance(part, list) else part


def _properties(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value, schema) for key, value in part.items()}


def _keys() -> dict[str, Any]:
    found = {}
    for name, model in house.settings_models().items():
        schema = model.model_json_schema()
        found[name] = _plain(schema, schema)["properties"]
    return found


def _contract() -> dict[str, Any]:
    return {
        "entry_points": _entry_points(),
        "settings": _keys(),
        "tables": {name: str(schema).splitlines() for name, schema in house.SCHEMAS.items()},
    }


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    if os.environ.get("XADFLOW_WRITE_GOLDEN"):
        CONTRACT.write_text(json.dumps(_contract(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return dict(json.loads(CONTRACT.read_text(encoding="utf-8")))


@pytest.mark.parametrize("named", IMPORTS)
def test_what_is_public_can_be_imported(named: str) -> None:
    module, _, name = named.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("part", ["entry_points", "settings", "tables"])
def test_the_contract_is_that_written_down(part: str, contract: dict[str, Any]) -> None:
    now = json.loads(json.dumps(_contract()[part]))
    assert now.keys() == contract[part].keys()
    for name, value in now.items():
        assert value == contract[part][name], name


def test_tags_of_mlflow_and_of_commits_keep_their_names() -> None:
    literals = {
        node.value.removeprefix("xadflow.")
        for path in house.SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"xadflow\.[a-z0-9_]+", node.value)
    }
    others = {
        name
        for name in literals - set(TAGS)
        if f"xadflow.{name}" not in GROUPS and importlib.util.find_spec(f"xadflow.{name}") is None
    }
    assert set(TAGS) - literals == set()
    assert others == set(), "a tag that TAGS does not name"
