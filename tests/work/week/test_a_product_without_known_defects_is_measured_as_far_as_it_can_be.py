"""Without a labelled defect detection has no figure; what explanations are worth is told from drawn ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.explainers.conftest import patterned
from xadflow.detectors.scoring import score_images
from xadflow.models.gate import judge
from xadflow.settings import ExplainSettings
from xadflow.settings.params import GateSettings
from xadflow.work.week.evaluate import Scored, detection_figures, with_drawn_defects

RULES = GateSettings(explained=12)
PROJECT = SimpleNamespace(
    settings=SimpleNamespace(gate=RULES, seed=0, explain=ExplainSettings(datasets=(), explainers=(), batch_size=8)),
    device=torch.device("cpu"),
)


def scored_of(detector, images, labels) -> Scored:
    rows = tuple(SimpleNamespace(defect=None, category="x") for _ in labels)
    scores = score_images(detector, images, 8, torch.device("cpu"))
    return Scored(rows, images, scores, np.array(labels, dtype=np.int64))


@pytest.mark.parametrize(
    ("labels", "kind"), [([0] * 6, "false_alarm_rate"), ([1] * 6, "recall"), ([0], "false_alarm_rate")]
)
def test_one_class_alone_gives_its_count_and_its_rate_and_nothing_more(trained, labels, kind):
    scored = scored_of(trained, patterned(6, 9)[: len(labels)], labels)
    figures = scored.figures(trained.calibration.threshold, 0)
    assert "auroc" not in figures
    assert figures["normals"] == labels.count(0)
    assert figures["anomalies"] == labels.count(1)
    assert {"false_alarm_rate", "recall"} & figures.keys() == {kind}
    assert detection_figures(scored, 0.0, 0) == {"normals": labels.count(0), "anomalies": labels.count(1)}


@pytest.mark.parametrize("labels", [[0] * 6, [0, 0, 0, 0, 1, 1], [0]])
def test_drawn_defects_take_the_place_of_the_few_and_the_normals_stay(trained, labels):
    scored = scored_of(trained, patterned(len(labels), 9), labels)
    drawn = with_drawn_defects(PROJECT, trained, scored)
    normals = labels.count(0)
    assert drawn.labels.tolist() == [0] * normals + [1] * RULES.explained
    assert torch.equal(drawn.images[:normals], scored.images[:normals])
    assert len(drawn.rows) == len(drawn.images) == len(drawn.scores)
    again = with_drawn_defects(PROJECT, trained, scored)
    assert torch.equal(again.images, drawn.images)
    for place in range(normals, len(drawn.images)):  # each is one of the normals with something on it
        assert not torch.equal(drawn.images[place], drawn.images[(place - normals) % normals])


def test_the_verdict_on_it_is_open_and_never_a_promotion(trained):
    figures = detection_figures(scored_of(trained, patterned(6, 9), [0] * 6), 0.0, 0)
    explained = {"flip_rate": 1.0, "change_inside": 0.9, "explained": 12.0}
    verdict = judge(RULES, {**figures, **explained}, None)
    assert not verdict.passed
    assert verdict.is_open
    worse = judge(RULES, {**figures, **explained, "flip_rate": 0.2}, None)
    assert not worse.is_open
