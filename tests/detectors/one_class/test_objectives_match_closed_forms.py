"""Losses and scores of the one-class family against float64 closed forms and hand values."""

from __future__ import annotations

import math

import pytest
import torch

from xadflow.detectors.one_class.responses import FLOOR, BinaryCrossEntropy, DeepSAD, DeepSVDD, HypersphereClassifier

NORMAL, ANOMALY = torch.tensor([False]), torch.tensor([True])


def vectors(*lengths: float, width: int = 4) -> torch.Tensor:
    """One vector of each length, float32."""
    direction = torch.tensor([0.5, -0.5, 0.5, -0.5])[:width]
    return torch.stack([direction * length for length in lengths])


@pytest.mark.parametrize("length", [0.0, 1e-4, 1e-2, 1.0, 3.0, 40.0, 1e4])
def test_hsc_is_its_float64_closed_form(length: float):
    f = vectors(length)
    squared = float((f.double() ** 2).sum())
    h = math.expm1(0.5 * math.log1p(squared))
    loss = HypersphereClassifier()
    assert loss.score(f).item() == pytest.approx(h, rel=1e-6)
    assert loss.loss(f, NORMAL).item() == pytest.approx(h, rel=1e-6)
    expected = -math.log(-math.expm1(-(h + FLOOR)))
    assert loss.loss(f, ANOMALY).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_ranking_by_h_is_the_published_one_where_that_has_no_ties():
    h = HypersphereClassifier().score(vectors(*[0.1 * k for k in range(1, 150)]))
    published = 1.0 - torch.exp(-h.double())
    assert h.argsort().tolist() == published.argsort().tolist()
    far = HypersphereClassifier().score(vectors(30.0, 60.0))
    assert far[0] < far[1]
    assert torch.equal(*(1.0 - torch.exp(-far)).split(1))  # why it is not what we rank by: both are 1.0


def test_dsvdd_is_the_squared_distance_and_learns_nothing_of_anomalies():
    loss = DeepSVDD(4)
    loss.centre.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    f = torch.tensor([[3.0, 1.0, 0.0, 2.0]])
    assert loss.score(f).item() == 9.0
    assert loss.loss(f, NORMAL).item() == 9.0
    assert loss.loss(f, ANOMALY).item() == 0.0


def test_dsvdds_centre_is_the_mean_kept_away_from_zero():
    loss = DeepSVDD(5)
    loss.set_centre(torch.tensor([[2.0, 0.06, -0.06, 0.0, -4.0], [4.0, 0.0, 0.0, 0.0, -5.0]]))
    torch.testing.assert_close(loss.centre, torch.tensor([3.0, 0.1, -0.1, 0.1, -4.5]))


@pytest.mark.parametrize("length", [0.0, 1e-3, 0.5, 7.0, 1e3])
def test_deep_sad_is_the_squared_length_and_its_inverse(length: float):
    f = vectors(length)
    squared = float((f.double() ** 2).sum())
    assert DeepSAD().loss(f, NORMAL).item() == pytest.approx(squared, rel=1e-6)
    assert DeepSAD().loss(f, ANOMALY).item() == pytest.approx(1 / (squared + FLOOR), rel=1e-5)
    assert DeepSAD().score(f).item() == pytest.approx(squared, rel=1e-6)


@pytest.mark.parametrize("z", [-60.0, -20.0, -1.0, 0.0, 0.5, 17.0, 90.0])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_bce_and_focal_are_their_float64_forms_and_score_the_logit(z: float, gamma: float):
    objective, f = BinaryCrossEntropy(gamma), torch.tensor([[z]])
    for is_anomaly, sign in ((NORMAL, -1.0), (ANOMALY, 1.0)):
        cost = math.log1p(math.exp(-abs(z))) + max(0.0, -sign * z)  # -log sigmoid(sign * z)
        expected = (-math.expm1(-cost)) ** gamma * cost
        assert objective.loss(f, is_anomaly).item() == pytest.approx(expected, rel=1e-5, abs=1e-30)
    assert objective.score(f).item() == z


@pytest.mark.parametrize(
    "objective", [HypersphereClassifier(), DeepSAD(), BinaryCrossEntropy(), BinaryCrossEntropy(2.0)]
)
@pytest.mark.parametrize("length", [0.0, 1e-8, 1e-3, 1.0, 1e3])
def test_gradients_are_finite_near_zero_and_far_out(objective, length: float):
    f = vectors(length, length).requires_grad_()
    objective.loss(f, torch.tensor([False, True])).sum().backward()
    assert f.grad is not None
    assert f.grad.isfinite().all()


def test_a_batch_of_one_label_keeps_the_sign():
    for objective in (HypersphereClassifier(), DeepSAD(), BinaryCrossEntropy()):
        near, far = vectors(0.5), vectors(3.0)
        near[:, 0], far[:, 0] = -2.0, 5.0
        far[:, 1:] *= 3
        assert objective.loss(near, ANOMALY) > objective.loss(far, ANOMALY)
        assert objective.loss(near, NORMAL) < objective.loss(far, NORMAL)
