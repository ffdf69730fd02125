from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_store import Store, training

from xadflow.models.registry import Registry
from xadflow.work.numbers import rows_of_another, take_a_free_number

NAME = "xad.lost-set.tiny"
OLD, NEW = 0.25, 0.5  # thresholds of the model that is gone and of ours


def rows_of(versions: dict[int, float]) -> Any:
    """A store whose rows have these thresholds, by version."""

    def of_another(name: str, version: int, weights: str, threshold: float) -> str | None:
        return None if versions[version] == threshold else f"threshold {versions[version]}"

    return SimpleNamespace(versions=lambda name: set(versions) if name == NAME else set(), of_another=of_another)


@pytest.fixture
def saved(store: Store, tmp_path: Path) -> Path:
    store.detector.save(tmp_path / "saved")
    (tmp_path / "saved" / "detector.json").write_text(
        json.dumps({"method": "tiny", "calibration": {"threshold": NEW, "temperature": 1.0, "false_alarm_rate": 0.05}})
    )
    return tmp_path / "saved"


@pytest.fixture
def registry(tmp_path: Path, put_mlflow_database) -> Registry:
    put_mlflow_database(tmp_path / "var")
    return Registry(f"sqlite:///{tmp_path / 'var' / 'mlflow.db'}", tmp_path / "var" / "mlartifacts")


def register(registry: Registry, saved: Path, rows: Any, key: str) -> int:
    take_a_free_number(rows, registry, NAME, saved)
    small: dict[str, Any] = {"params": {}, "metrics": {}, "history": [], "figures": {}}
    return registry.log_training(
        **training(saved, saved, **small, model_name=NAME, tags={"xadflow.training_key": key})
    ).version


def test_versions_go_on_after_those_of_the_tables_and_it_is_said(
    registry: Registry, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "xadflow"):
        assert register(registry, saved, rows_of({1: OLD, 3: OLD}), "a") == 4
    assert "versions up to 3" in caplog.text
    assert "the new version gets 4" in caplog.text
    assert [one.version for one in registry.versions(NAME)] == [4]  # no other is left to be seen
    caplog.clear()
    assert register(registry, saved, rows_of({1: OLD, 3: OLD, 4: NEW}), "b") == 5
    assert not caplog.text


def test_a_registry_from_a_backup_skips_what_came_after_it(registry: Registry, saved: Path) -> None:
    assert register(registry, saved, rows_of({}), "a") == 1
    assert register(registry, saved, rows_of({1: NEW, 2: OLD}), "b") == 3


def test_the_same_weights_keep_their_number_and_their_rows(registry: Registry, saved: Path) -> None:
    """The training was still in var/runs: the model that comes back is the one that was lost."""
    assert register(registry, saved, rows_of({1: NEW}), "a") == 1


def test_rows_of_another_are_said_of_a_version(registry: Registry, saved: Path) -> None:
    assert register(registry, saved, rows_of({}), "a") == 1
    ref = registry.resolve(f"{NAME}/1")
    assert rows_of_another(rows_of({1: OLD}), ref, saved) == "threshold 0.25"
    assert rows_of_another(rows_of({1: NEW}), ref, saved) is None
    assert rows_of_another(rows_of({2: OLD}), ref, saved) is None
