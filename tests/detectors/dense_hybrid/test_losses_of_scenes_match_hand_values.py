"""The hybrid score and the losses against what they are on paper (docs/explanation/methods.md, "DenseHybrid", tests 2
to 4).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.reading import closed_loss, hybrid_terms, log_likelihood, log_outlier, weighted
from xadflow.detectors.dense_hybrid.settings import HybridSettings, dense_hybrid_settings

S = torch.tensor([[[[2.0, 1.0, 0.5, -1.0]], [[0.0, -1.0, 1.5, 3.0]]]])  # (1, K=2, 1, 4)
O = torch.tensor([[[[0.0, 1.0, 2.0, -0.5]], [[1.0, 0.5, -1.0, 0.5]]]])  # noqa: E741 the paper's letter
LABELS = torch.tensor([[[VOID, 1, 0, 1]]])  # void, pasted over a 1, inlier, inlier
PASTED = torch.tensor([[[False, True, False, False]]])


def lse(*values: float) -> float:
    return math.log(sum(math.exp(value) for value in values))


CLASSES = ((lse(0.5, 1.5) - 0.5) + (lse(-1.0, 3.0) - 3.0)) / 2
D_IN = [lse(0.0, 1.0) - 0.0, None, lse(2.0, -1.0) - 2.0, lse(-0.5, 0.5) + 0.5]  # -ln P(d_in) by pixel
D_OUT = lse(1.0, 0.5) - 0.5  # of the pasted pixel


def score(s: Tensor, o: Tensor) -> Tensor:
    return log_outlier(o) - log_likelihood(s)


def terms(pasted: Tensor = PASTED, **settings: object) -> dict[str, float]:
    given = HybridSettings(**settings)  # type: ignore[arg-type]
    return {name: value.item() for name, value in hybrid_terms(S, O, LABELS, pasted, given).items()}


def test_the_score_is_the_naive_formula_in_double_precision():
    g = torch.Generator().manual_seed(0)
    s, o = (4 * torch.randn(3, k, 5, 7, dtype=torch.float64, generator=g) for k in (6, 2))
    naive = o.softmax(1)[:, 1].log() - s.exp().sum(1).log()
    torch.testing.assert_close(score(s, o), naive, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score(s.float(), o.float()).double(), naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_score_is_finite_where_the_head_is_saturated(kind: torch.dtype):
    o = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], dtype=kind).view(2, 2, 1, 1)
    s = torch.tensor([[200.0, -200.0], [-200.0, -200.0]], dtype=kind).view(2, 2, 1, 1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        found = score(s, o)
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx([-600.0, 200.0 - math.log(2)])
    (gradient,) = torch.autograd.grad(found.sum(), s)
    assert gradient.isfinite().all()


def test_a_constant_on_all_class_logits_moves_the_score_by_its_negative_alone():
    g = torch.Generator().manual_seed(1)
    s, o = torch.randn(2, 5, 3, 4, generator=g), torch.randn(2, 2, 3, 4, generator=g)
    torch.testing.assert_close(score(s + 7.5, o), score(s, o) - 7.5)
    torch.testing.assert_close((s + 7.5).softmax(1), s.softmax(1))


def test_with_one_class_the_likelihood_is_the_logit_and_the_cross_entropy_nothing():
    s = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    torch.testing.assert_close(log_likelihood(s), s[:, 0])
    loss = closed_loss(s, torch.zeros(2, 3, 4, dtype=torch.int64))
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, s)[0].abs().max() == 0.0


def test_the_code_form_is_the_hand_value_with_and_without_void():
    as_released = {"energy": "raw", "ignore_void": False, "beta": 0.03, "dataset": 0.3}
    found = terms(**as_released)
    assert found["classes"] == pytest.approx(CLASSES)
    assert found["energy"] == found["lse_out"] == pytest.approx(lse(1.0, -1.0))
    assert found["dataset"] == pytest.approx((D_IN[0] + D_OUT + D_IN[2] + D_IN[3]) / 4)
    assert found["lse_in"] == pytest.approx((lse(0.5, 1.5) + lse(-1.0, 3.0)) / 2)
    assert terms(energy="raw")["dataset"] == pytest.approx((D_OUT + D_IN[2] + D_IN[3]) / 3)
    assert terms(energy="raw", balanced=True)["dataset"] == pytest.approx((D_OUT + (D_IN[2] + D_IN[3]) / 2) / 2)
    settings = HybridSettings(**as_released)  # type: ignore[arg-type]
    total = weighted(hybrid_terms(S, O, LABELS, PASTED, settings), settings).item()
    assert total == pytest.approx(found["classes"] + 0.03 * found["energy"] + 0.3 * found["dataset"])


def test_the_paper_form_weighs_inliers_fully_and_pastes_by_beta():
    settings = HybridSettings(form="paper", energy="raw", beta=0.03)
    found = terms(form="paper", energy="raw", beta=0.03)
    assert found["dataset_in"] == pytest.approx((D_IN[2] + D_IN[3]) / 2)
    assert found["dataset_out"] == pytest.approx(D_OUT)
    total = weighted(hybrid_terms(S, O, LABELS, PASTED, settings), settings).item()
    by_eq_15 = CLASSES + (D_IN[2] + D_IN[3]) / 2 + 0.03 * (D_OUT + lse(1.0, -1.0))
    assert total == pytest.approx(by_eq_15)


def test_energies_with_bounds_are_the_hand_values():
    out = lse(1.0, -1.0)
    low = [max(0.0, 4.0 - lse(0.5, 1.5)) ** 2, max(0.0, 4.0 - lse(-1.0, 3.0)) ** 2]
    assert terms(energy="hinge", margin_out=-1.0)["energy"] == pytest.approx((out + 1.0) ** 2)
    assert terms(energy="hinge", margin_out=5.0)["energy"] == 0.0
    assert terms(energy="softplus")["energy"] == pytest.approx(math.log1p(math.exp(out)))
    assert terms(energy="two_sided", margin_out=-1.0, margin_in=4.0)["energy"] == pytest.approx(
        (out + 1.0) ** 2 + sum(low) / 2
    )


@pytest.mark.parametrize("energy", ["raw", "hinge", "softplus"])
def test_the_energy_of_pastes_has_a_gradient_on_pasted_pixels_alone(energy: str):
    s = S.clone().requires_grad_()
    found = hybrid_terms(s, O, LABELS, PASTED, HybridSettings(energy=energy))
    (gradient,) = torch.autograd.grad(found["energy"], s)
    assert (gradient.abs().sum(1) > 0).equal(PASTED)
    (of_classes,) = torch.autograd.grad(closed_loss(s, torch.where(PASTED, VOID, LABELS)), s)
    assert (of_classes.abs().sum(1) > 0).equal(torch.tensor([[[False, False, True, True]]]))


@pytest.mark.parametrize("settings", [{}, {"energy": "raw"}, {"form": "paper"}, {"balanced": True}])
def test_nothing_pasted_and_everything_void_give_zeros_not_nan(settings: dict[str, object]):
    nothing = terms(pasted=torch.zeros_like(PASTED), **{**settings, "energy": "raw"})
    assert nothing["energy"] == nothing["lse_out"] == 0.0
    s, o = S.clone().requires_grad_(), O.clone().requires_grad_()
    given = HybridSettings(**settings)  # type: ignore[arg-type]
    loss = weighted(hybrid_terms(s, o, torch.full_like(LABELS, VOID), torch.zeros_like(PASTED), given), given)
    assert loss.item() == 0.0
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (s, o)))


def test_the_published_configuration_has_the_published_weights_and_rates():
    s = dense_hybrid_settings(
        {"configuration": "published", "net": "mobile", "hybrid": {"batch_size": 3}}, "dense_hybrid"
    )
    assert (s.hybrid.form, s.hybrid.energy, s.hybrid.beta, s.hybrid.dataset) == ("code", "raw", 0.03, 0.3)
    assert (s.hybrid.batch_size, s.closed.batch_size, s.closed.learning_rate_trunk) == (3, 16, 1e-4)
    assert (s.paste.pastes, s.paste.rectangle, s.paste.smallest_px, s.paste.largest) == (1, 0.5, 16, 1.0)
    assert not s.hybrid.ignore_void
    assert not s.hybrid.frozen_bn
