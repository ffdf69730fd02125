"""A version without its alias, and a DVC stage that a signal ended: what the next attempt does about them."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from tasks.dataset import run_stage
from xadflow.errors import StageFailed
from xadflow.retraining import register_trained
from xadflow.tracking.model_versions import ModelRef


class Registry:
    """One model with a version 2 that is registered for the training asked for."""

    def __init__(self, challenger: int | None) -> None:
        self.challenger = challenger

    def find_trained(self, name: str, key: str) -> ModelRef:
        return ModelRef(name, 2, "run")

    def alias(self, name: str, alias: str) -> ModelRef | None:
        assert alias == "challenger"
        return None if self.challenger is None else ModelRef(name, self.challenger, "run")

    def set_alias(self, name: str, alias: str, version: int) -> None:
        assert alias == "challenger"
        self.challenger = version


@pytest.mark.parametrize(("before", "after"), [(None, 2), (1, 2), (2, 2), (3, 3)])
def test_a_version_that_a_kill_left_without_alias_becomes_challenger(before, after):
    registry = Registry(before)
    order = SimpleNamespace(model_name="xad.plates.fcdd", key="key")
    assert register_trained(None, SimpleNamespace(explainers={}), registry, order).version == 2
    assert registry.challenger == after


@pytest.mark.parametrize(("status", "said", "transient"), [
    (-9, "", True), (1, "", False), (1, "validation failed", False), (255, "'manifest@plates' is busy", True),
])  # fmt: skip
def test_a_stage_that_a_signal_ended_is_tried_again(monkeypatch, tmp_path, status, said, transient):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=status, stderr=said, stdout=""))
    with pytest.raises(StageFailed) as failed:
        run_stage(tmp_path, "validate@plates")
    assert failed.value.transient is transient
    assert ("signal 9" in str(failed.value)) == (status == -9)
