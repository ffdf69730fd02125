"""What the answer to broken weights promises: `xadflow retrain` makes a version that serves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from situations import flipped, weights

from xadflow.errors import BadWeights
from xadflow.models.registry import CHAMPION
from xadflow.models.tags import TRAINING_KEY
from xadflow.project import Project
from xadflow.settings import Home
from xadflow.work.week import gate

pytestmark = [pytest.mark.slow, pytest.mark.server]

NAME = "xad.bolts.fcdd"
GOOD = {"auroc": 0.9, "flip_rate": 1.0, "change_inside": 0.6}


@pytest.fixture
def opened(plant, champion) -> Iterator[SimpleNamespace]:
    """Home, settings and registry, with a second version of the same training beside the champion."""
    with plant.inside():
        yield from _opened(plant)


def _opened(plant) -> Iterator[SimpleNamespace]:
    home = Home.find(plant.project)
    project = Project(home)
    registry = project.registry
    first = registry.champion(NAME)
    copied = home.mlflow_artifacts / "copied"
    shutil.copytree(registry.detector_folder(first).parents[1], copied)
    second = registry._client.create_model_version(
        NAME, copied.as_uri(), first.run_id, tags={**first.tags, TRAINING_KEY: "k"}
    )
    yield SimpleNamespace(
        home=home, settings=project.settings, registry=registry, device=project.device, second=int(second.version)
    )
    registry.set_alias(NAME, CHAMPION, first.version)
    registry._client.delete_model_version(NAME, second.version)
    shutil.rmtree(copied)


def judged(opened: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, figures: dict[str, float]) -> gate.GateOutcome:
    monkeypatch.setattr(gate, "gate_figures", lambda *_: figures)
    monkeypatch.setattr(gate, "dvc_hashes", lambda *_: {})
    challenger = opened.registry.resolve(f"{NAME}/{opened.second}")
    return gate.judge_challenger(opened, "bolts", challenger)


def test_a_training_whose_registered_files_changed_is_not_taken_for_done(plant, opened) -> None:
    assert opened.registry.find_trained(NAME, "k").version == opened.second
    path = opened.home.mlflow_artifacts / "copied/artifacts/detector/weights.safetensors"
    path.write_bytes(flipped(path.read_bytes()))
    assert opened.registry.find_trained(NAME, "k") is None


def test_a_good_challenger_replaces_a_broken_champion_and_the_reason_says_so(plant, opened, monkeypatch) -> None:
    with weights(flipped)(plant):
        outcome = judged(opened, monkeypatch, GOOD)
    assert outcome.passed
    assert outcome.reasons[0].startswith("The champion could not be measured")
    assert opened.registry.champion(NAME).version == opened.second


def test_a_bad_challenger_does_not_and_is_asked_again_when_the_champion_is_restored(plant, opened, monkeypatch) -> None:
    with weights(flipped)(plant):
        assert not judged(opened, monkeypatch, {**GOOD, "auroc": 0.4}).passed
    assert opened.registry.champion(NAME).version != opened.second
    again = judged(opened, monkeypatch, {**GOOD, "auroc": 0.4})
    assert again.judged
    assert not any("could not be measured" in reason for reason in again.reasons)


def test_a_challenger_with_broken_files_is_never_promoted(plant, opened, monkeypatch) -> None:
    path = opened.home.mlflow_artifacts / "copied/artifacts/detector/weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadWeights, match="xadflow retrain --dataset bolts"):
        judged(opened, monkeypatch, GOOD)


def test_a_refused_challenger_is_asked_again_only_when_what_explains_it_changed(plant, opened, monkeypatch) -> None:
    bad = {**GOOD, "flip_rate": 0.4}
    assert [judged(opened, monkeypatch, bad).judged for _ in range(2)] == [True, False]
    monkeypatch.setattr("xadflow.explainers.sparse.explainer.SparseExplainer.code_version", "other")
    assert judged(opened, monkeypatch, bad).judged
