"""The hypersphere-classifier loss against hand values and float64 (docs/explanation/methods.md, "FCDD",
items 1, 2, 7).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from xadflow.detectors.losses import anomaly_term, image_level_loss, pixel_level_loss, pooled, pseudo_huber


@pytest.mark.parametrize(
    ("response", "value"), [(0.0, 0.0), (1.0, 0.41421356), (3.0, 2.16227766), (-3.0, 2.16227766), (1e-4, 5.0e-9)]
)
def test_pseudo_huber_has_its_closed_form_value_in_float32(response: float, value: float):
    assert pseudo_huber(torch.tensor(response)).item() == pytest.approx(value, rel=1e-6, abs=1e-20)


@pytest.mark.parametrize(
    ("statistic", "value"),
    [(1e-6, 13.815511), (1e-3, 6.908255), (0.5, 0.932752), (math.log(2), 0.693147), (5.0, 0.00676075)],
)
def test_anomaly_term_has_its_closed_form_value_in_float32(statistic: float, value: float):
    assert anomaly_term(torch.tensor(statistic)).item() == pytest.approx(value, rel=2e-6)


def test_anomaly_term_equals_the_naive_form_in_float64_over_nine_decades():
    a = np.logspace(-6, 1.5, 200)
    ours = anomaly_term(torch.from_numpy(a)).double().numpy()
    naive = -np.log1p(-np.exp(-a))  # exact to 1e-10 in float64 down to 1e-6
    np.testing.assert_allclose(ours, naive, rtol=2e-6, atol=1e-12)  # float32 rounding of a and of the log


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_at_zero_is_finite_and_points_up(dtype: torch.dtype):
    response = torch.tensor([0.0, 1e-20, 1e-3, 1.0, 90.0], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = anomaly_term(pseudo_huber(response))
        assert loss.dtype == torch.float32
        loss.sum().backward()
    assert response.grad is not None
    assert response.grad.isfinite().all()
    statistic = torch.zeros(1, requires_grad=True)
    anomaly_term(statistic).backward()
    assert statistic.grad is not None
    assert -math.inf < statistic.grad.item() < 0  # an anomaly that scores 0 is pushed away, not forgotten


def test_a_batch_with_one_label_keeps_the_right_sign():
    statistic = torch.tensor([0.2, 1.0], requires_grad=True)
    image_level_loss(statistic, torch.tensor([True, True])).sum().backward()
    assert (statistic.grad < 0).all()  # type: ignore[operator]
    normal = torch.tensor([0.2, 1.0], requires_grad=True)
    image_level_loss(normal, torch.tensor([False, False])).sum().backward()
    assert torch.equal(normal.grad, torch.ones(2))  # type: ignore[arg-type]


def test_a_mixed_batch_is_the_list_of_its_single_losses():
    torch.manual_seed(0)
    statistic, label = torch.rand(6), torch.tensor([True, False, True, False, False, True])
    singly = torch.cat([image_level_loss(statistic[i : i + 1], label[i : i + 1]) for i in range(6)])
    assert torch.equal(image_level_loss(statistic, label), singly)
    maps, masks = torch.rand(4, 5, 7), torch.rand(4, 5, 7) < 0.3
    masks[2] = False
    singly = torch.cat([pixel_level_loss(maps[i : i + 1], masks[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(pixel_level_loss(maps, masks), singly, rtol=1e-6, atol=0)


def test_a_full_mask_gives_the_image_term_and_an_empty_one_the_mean():
    torch.manual_seed(0)
    maps = torch.rand(3, 6, 4)
    mean = maps.mean(dim=(1, 2))
    full = pixel_level_loss(maps, torch.ones(3, 6, 4, dtype=torch.bool))
    torch.testing.assert_close(full, -torch.log(1 - torch.exp(-mean)), rtol=1e-5, atol=0)
    torch.testing.assert_close(pixel_level_loss(maps, torch.zeros(3, 6, 4, dtype=torch.bool)), mean)


def test_pixel_terms_divide_by_the_image_as_published_or_by_their_own_area():
    maps = torch.full((1, 4, 4), 0.5)
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    published = 0.5 * 14 / 16 - math.log(1 - math.exp(-0.5 * 2 / 16))
    own_area = 0.5 - math.log(1 - math.exp(-0.5))
    assert pixel_level_loss(maps, masks).item() == pytest.approx(published, rel=1e-6)
    assert pixel_level_loss(maps, masks, area="region").item() == pytest.approx(own_area, rel=1e-6)


def test_pooling_is_the_mean_of_the_hottest_share_and_of_all_at_one():
    maps = torch.arange(20.0).view(1, 4, 5)
    assert pooled(maps, 1.0).item() == pytest.approx(9.5)
    assert pooled(maps, 0.1).item() == pytest.approx((19 + 18) / 2)
    assert pooled(maps, 0.001).item() == 19.0
