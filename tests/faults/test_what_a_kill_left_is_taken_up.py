"""A version that a kill left without its alias: what the next attempt does about it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from xadflow.models.versions import ModelRef
from xadflow.work.week import register_trained


class Registry:
    """One model with a version 2 that is registered for the training asked for."""

    def __init__(self, challenger: int | None) -> None:
        self.challenger = challenger

    def find_trained(self, name: str, key: str) -> ModelRef:
        return ModelRef(name, 2, "run")

    def detector_folder(self, ref: ModelRef) -> None:
        """Nobody looks into it: no row has this number."""

    def alias(self, name: str, alias: str) -> ModelRef | None:
        assert alias == "challenger"
        return None if self.challenger is None else ModelRef(name, self.challenger, "run")

    def set_alias(self, name: str, alias: str, version: int) -> None:
        assert alias == "challenger"
        self.challenger = version


@pytest.mark.parametrize(("before", "after"), [(None, 2), (1, 2), (2, 2), (3, 3)])
def test_a_version_that_a_kill_left_without_alias_becomes_challenger(before, after):
    registry = Registry(before)
    records = SimpleNamespace(versions=lambda name: set())
    project = SimpleNamespace(home=None, settings=SimpleNamespace(explainers={}), registry=registry, records=records)
    order = SimpleNamespace(model_name="xad.plates.fcdd", registered_key="key")
    assert register_trained(project, order).version == 2
    assert registry.challenger == after
