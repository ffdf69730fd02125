import dataclasses

import numpy as np
import pytest
import torch

from tests.work.probe.conftest import MARK, SIDE, TemplateDetector, gravel
from xadflow.detectors import TrainingData, build_detector
from xadflow.errors import WrongUse
from xadflow.work.probe.planting import carriers, chosen, ground, marked_test, planted

SMALL = {"network": "cnn28"}


def changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (before != after).flatten(1).any(dim=1)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("side", ["outliers", "normals"])
def test_exactly_the_share_of_one_side_is_marked(same_kind: TrainingData, rate: float, side):
    before = dataclasses.replace(same_kind, normals=same_kind.normals.clone(), outliers=same_kind.outliers.clone())
    after = planted(ground(TemplateDetector(), same_kind, side, 0), rate, MARK, 0)
    parts = {"outliers": ("outliers",), "normals": ("normals", "val_normals")}[side]
    for part in ("normals", "val_normals", "known", "calibration_defects", "outliers"):
        old, new = getattr(before, part), getattr(after, part)
        assert int(changed(old, new).sum()) == (round(rate * len(old)) if part in parts else 0), part
    assert torch.equal(same_kind.normals, before.normals)
    assert torch.equal(same_kind.outliers, before.outliers)


def test_what_a_lower_rate_marks_a_higher_one_marks_too(same_kind: TrainingData):
    on = ground(TemplateDetector(), same_kind, "outliers", 0)
    low, high = (changed(same_kind.outliers, planted(on, rate, MARK, 0).outliers) for rate in (0.2, 0.6))
    assert bool((high | ~low).all())
    assert not torch.equal(low, changed(same_kind.outliers, planted(on, 0.2, MARK, 1).outliers))


def test_copies_of_the_test_images_carry_the_mark_on_one_side_and_lose_it_without_a_trace():
    images, labels = gravel(60, 5), np.array([0] * 20 + [1] * 40)
    before = images.clone()
    test = marked_test(images, labels, MARK, 0)
    assert torch.equal(test.images, before)
    assert torch.equal(torch.where(test.masks[:, None], before, test.marked), before)
    assert bool(changed(test.images, test.marked).all())
    assert carriers(labels, "outliers", 0.25, 0).sum() == 10
    assert not carriers(labels, "outliers", 1.0, 0)[labels == 0].any()
    assert carriers(labels, "normals", 1.0, 0).tolist() == (labels == 0).tolist()


def test_chosen_is_exact_at_both_ends():
    generator = torch.Generator
    assert chosen(7, 0.0, generator()).sum() == 0
    assert chosen(7, 1.0, generator()).all()
    assert chosen(0, 0.5, generator()).shape == (0,)


@pytest.mark.parametrize("method", ["dsvdd", "ae"])
def test_methods_that_learn_nothing_from_anomalies_are_refused_there_and_probed_on_normals(
    method, same_kind: TrainingData
):
    with pytest.raises(WrongUse, match="--side normals"):
        ground(build_detector(method, **SMALL), same_kind, "outliers", 0)
    assert ground(build_detector(method, **SMALL), same_kind, "normals", 0).notes == ()


def test_only_anomalies_that_the_method_learns_from_are_planted_on(same_kind: TrainingData):
    data = dataclasses.replace(same_kind, known=gravel(12, 9))
    assert ground(build_detector("hsc", **SMALL), data, "outliers", 0).parts == ("outliers", "known")
    assert ground(build_detector("hsc", **SMALL, anomalies=("known",)), data, "outliers", 0).parts == ("known",)
    assert ground(build_detector("fcdd"), data, "outliers", 0).parts == ("known",)


def test_without_any_bank_defects_are_drawn_beforehand_and_said(same_kind: TrainingData):
    bare = dataclasses.replace(same_kind, outliers=same_kind.outliers[:0])
    on = ground(build_detector("hsc", **SMALL), bare, "outliers", 0)
    assert on.parts == ("known",)
    assert on.data.known.shape == (300, 1, SIDE, SIDE)
    assert on.data.known_masks is not None
    differs = (on.data.known != bare.normals).any(dim=1)
    assert bool((on.data.known_masks | ~differs).all())
    assert bool(differs.flatten(1).any(dim=1).all())
    assert "300 defects drawn beforehand" in on.notes[0]
    with pytest.raises(WrongUse, match="add `known`"):
        ground(build_detector("hsc", **SMALL, anomalies=("synthetic",)), bare, "outliers", 0)


def test_it_says_that_synthetic_anomalies_carry_the_mark_of_normals(same_kind: TrainingData):
    bare = dataclasses.replace(same_kind, outliers=same_kind.outliers[:0])
    assert "it tells nothing apart" in ground(build_detector("hsc", **SMALL), bare, "normals", 0).notes[0]
    both = build_detector("hsc", **SMALL, anomalies=("outliers", "synthetic"))
    assert "only outliers do not" in ground(both, same_kind, "normals", 0).notes[0]
    assert ground(build_detector("hsc", **SMALL), same_kind, "normals", 0).notes == ()  # with outliers none are drawn
