from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.explainers.conftest import patterned, with_defects
from xadflow.detectors.base import TrainingData
from xadflow.explainers import load_explainer
from xadflow.models.tags import FILES
from xadflow.models.versions import ModelRef
from xadflow.settings import Home
from xadflow.work.week import ExplainerOrder, train_explainer

SETTINGS = {"width": 8, "images": 4, "steps": 6}


@pytest.fixture
def order(trained, monkeypatch, tmp_path: Path):
    """A training whose detector and data are those of the toy product."""
    nothing = torch.zeros(0, 1, 24, 24, dtype=torch.uint8)
    data = TrainingData(patterned(24, 70), patterned(8, 71), with_defects(patterned(8, 72), 73)[0], None, nothing)
    for name, made in (
        ("xadflow.detectors.scoring.open_detector", trained),
        ("xadflow.datasets.loading.training_data", data),
        ("xadflow.datasets.manifest.read_manifest", None),
    ):
        monkeypatch.setattr(name, lambda *_, made=made, **__: made)
    monkeypatch.setattr("xadflow.training.loop.CHECKPOINT_EVERY", 2)
    detector = ModelRef("xad.stripes.toy", 3, "run", {FILES: '{"weights.safetensors": "%s"}' % ("ab" * 32)})
    return lambda key: ExplainerOrder("stripes", "diverse", SETTINGS, detector, "md5", key)


@pytest.fixture
def run(tmp_path: Path):
    home = Home(tmp_path, tmp_path / "var")
    project = SimpleNamespace(
        home=home,
        settings=SimpleNamespace(dataset=lambda name: SimpleNamespace(outliers=None)),
        registry=SimpleNamespace(detector_folder=lambda ref: None),
        device=torch.device("cpu"),
    )
    return home, lambda order, update=None: train_explainer(project, order, update)


def test_it_ends_with_the_same_bytes_and_is_not_done_before(order, run) -> None:
    home, train = run

    def killed(done: int, total: int, figures) -> None:
        assert total == SETTINGS["steps"]
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(order("killed"), killed)
    assert not order("killed").is_done(home)
    resumed = train(order("killed"))
    assert json.loads((order("killed").folder(home) / "fit.json").read_text())["resumed_from"] == 4
    whole = train(order("whole"))
    assert (resumed / "generator.safetensors").read_bytes() == (whole / "generator.safetensors").read_bytes()
    assert order("killed").is_done(home)
    assert load_explainer(resumed).explained.weights == "ab" * 32


def test_what_is_done_is_not_done_again(order, run) -> None:
    _, train = run
    train(order("once"))
    told = []
    train(order("once"), lambda *words: told.append(words))
    assert told == []
