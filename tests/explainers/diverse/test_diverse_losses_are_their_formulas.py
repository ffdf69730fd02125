import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xadflow.detectors import build_detector
from xadflow.explainers.diverse.losses import (
    AnomalyProbability,
    concept_targets,
    discriminator_hinge,
    diversity,
    is_edit,
)
from xadflow.explainers.diverse.settings import DiverseSettings

HSC = AnomalyProbability("exponential")


def test_the_exponential_form_equals_cross_entropy_of_the_probability_in_float64():
    h = torch.logspace(-3, np.log10(20), 200, dtype=torch.float64)
    for value in (0.0, 0.3, 1.0):
        alpha = torch.full_like(h, value)
        phi = 1 - torch.exp(-h)
        expected = F.binary_cross_entropy(phi, alpha, reduction="none")
        torch.testing.assert_close(HSC.cross_entropy(h, alpha), expected, atol=1e-9, rtol=1e-7)


def test_the_logistic_form_equals_cross_entropy_of_the_probability_in_float64():
    scores = torch.linspace(-8, 8, 101, dtype=torch.float64)
    probability = AnomalyProbability("logistic", offset=1.5, scale=0.7)
    alpha = torch.rand(101, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.binary_cross_entropy(probability.of(scores), alpha, reduction="none")
    torch.testing.assert_close(probability.cross_entropy(scores, alpha), expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("kind", ["logistic", "exponential"])
def test_the_gradient_far_out_is_one_where_the_probability_is_one_in_float32(kind):
    scores = torch.tensor([40.0], requires_grad=True)
    probability = AnomalyProbability(kind)
    assert float(probability.of(scores.detach())) == 1.0
    probability.cross_entropy(scores, torch.zeros(1)).sum().backward()
    assert float(scores.grad) == pytest.approx(1.0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_loss_and_gradient_are_finite_at_a_score_of_zero(alpha):
    scores = torch.zeros(3, requires_grad=True)
    loss = HSC.cross_entropy(scores, torch.full((3,), alpha))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert scores.grad.isfinite().all()


def test_offset_and_scale_are_those_of_a_calibrated_detector(trained, anomalies):
    images = anomalies.float() / 255
    calibration = trained.calibration
    with torch.no_grad():
        probability = AnomalyProbability("logistic", calibration.threshold, calibration.temperature)
        found = probability.of(trained.score(images).image)
        torch.testing.assert_close(found, torch.sigmoid(-trained.normal_logit(images)))


def test_by_default_the_probability_is_what_the_detectors_loss_makes_of_the_score(trained):
    """bce: sigmoid of the score; hsc and FCDD: 1 - exp(-score); a detector that does not say: threshold and
    temperature.
    """
    scores = torch.tensor([0.1, 2.0])
    for method, expected in (
        ("bce", torch.sigmoid(scores)),
        ("hsc", 1 - torch.exp(-scores)),
        ("fcdd", 1 - torch.exp(-scores)),
        ("fcdd_conv", 1 - torch.exp(-scores)),
    ):
        detector = build_detector(method)
        detector._calibration = trained.calibration
        torch.testing.assert_close(DiverseSettings().anomaly_probability(detector).of(scores), expected)
    for detector in (trained, build_detector("dsvdd")):
        detector._calibration = trained.calibration
        same = DiverseSettings(probability="calibrated").anomaly_probability(detector).of(scores)
        torch.testing.assert_close(DiverseSettings().anomaly_probability(detector).of(scores), same)


def test_the_hinge_of_hand_values():
    assert float(discriminator_hinge(torch.tensor([0.5]), torch.tensor([-0.25]))) == 1.25
    assert float(discriminator_hinge(torch.tensor([2.0]), torch.tensor([-3.0]))) == 0.0


def test_concept_targets_are_zero_exactly_where_no_edit_was_asked_for():
    probability, alpha = torch.tensor([0.95, 0.95, 0.02]), torch.tensor([0.0, 0.9, 0.0])
    edit = is_edit(probability, alpha)
    assert edit.tolist() == [True, False, False]
    assert concept_targets(torch.tensor([1, 1, 0]), 2, edit).tolist() == [[0, 1], [0, 0], [0, 0]]


def test_diversity_is_the_mean_excess_of_cosines_by_brute_force():
    rng = np.random.default_rng(0)
    edits, edit = rng.normal(size=(5, 3, 2, 4, 4)), np.array([True, False, True, True, False])
    edits[0, 1] = edits[0, 0] * 3.0
    found = []
    for one in edits[edit]:
        pairs = []
        for i in range(3):
            for j in range(i + 1, 3):
                a, b = one[i].ravel(), one[j].ravel()
                pairs.append(max(0.0, a @ b / np.linalg.norm(a) / np.linalg.norm(b) - 0.1))
        found.append(np.mean(pairs))
    value = diversity(torch.tensor(edits), torch.tensor(edit), 0.1)
    assert float(value) == pytest.approx(np.mean(found), abs=1e-6)


def test_diversity_of_one_concept_or_of_no_edit_is_zero_and_still_differentiable():
    edits = torch.zeros(2, 2, 3, requires_grad=True)
    value = diversity(edits, torch.tensor([False, False]), 0.3)
    value.backward()
    assert float(value.detach()) == 0.0
    assert edits.grad.isfinite().all()
    assert float(diversity(torch.ones(2, 1, 3), torch.tensor([True, True]), 0.3)) == 0.0
    edits = torch.zeros(2, 2, 3, requires_grad=True)  # both edits are no edit: a gradient of NaN would end the training
    diversity(edits, torch.tensor([True, True]), 0.3).backward()
    assert edits.grad.isfinite().all()
