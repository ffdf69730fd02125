"""The heatmap explainer: the detector's own map kept raw, or the blurred gradient of its score."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from xadflow.errors import BadInput, BadSettings
from xadflow.explainers.base import Explainer
from xadflow.explainers.heatmap import HeatmapExplainer, gradient_maps
from xadflow.images import as_float


@pytest.fixture
def mapless(trained):
    other = copy.copy(trained)
    other.has_map = False
    return other


def test_the_map_is_the_detectors_own_and_raw(trained, anomalies):
    told = HeatmapExplainer().explain(trained, as_float(anomalies))
    with torch.no_grad():
        maps = trained.score(as_float(anomalies)).map.numpy()
    for one, heat in zip(told, maps, strict=True):
        assert one.heatmap.dtype == np.float32
        assert np.array_equal(one.heatmap, heat)
        assert one.metrics["map_max"] == float(heat.max())
        assert heat[int(one.metrics["peak_y"]), int(one.metrics["peak_x"])] == heat.max()
        assert one.metrics["from_gradient"] == 0.0
        assert one.counterfactuals == ()


def test_one_forward_for_a_batch(trained, anomalies):
    trained.forwards = 0
    HeatmapExplainer().explain(trained, as_float(anomalies))
    assert trained.forwards == len(anomalies)


def test_the_heat_lies_on_the_defect(trained, defective):
    images, masks = defective
    told = HeatmapExplainer().explain(trained, as_float(images))
    near = torch.nn.functional.max_pool2d(masks[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
    hits = [bool(m[int(one.metrics["peak_y"]), int(one.metrics["peak_x"])]) for one, m in zip(told, near, strict=True)]
    assert np.mean(hits) > 0.9
    assert np.mean([one.metrics["heat_in_top_10pct"] for one in told]) > 0.2  # 0.1 is a flat map


def test_a_detector_without_a_map_gets_its_blurred_gradient(mapless, anomalies):
    told = HeatmapExplainer(blur=0.1).explain(mapless, as_float(anomalies[:3]))
    x = as_float(anomalies[:3]).requires_grad_(True)
    mapless.score(x).image.sum().backward()
    gradient = x.grad.abs().sum(dim=1).numpy()
    # an independent blur: dense Gaussian weights over the reflected image
    reach, sigma = 10, 2.4
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for one, raw in zip(told, gradient, strict=True):
        padded = np.pad(raw.astype(float), reach, mode="symmetric")
        rows = np.stack([np.convolve(row, weights, mode="valid") for row in padded])
        wanted = np.stack([np.convolve(column, weights, mode="valid") for column in rows.T]).T
        np.testing.assert_allclose(one.heatmap, wanted, atol=1e-3 * wanted.max())  # scipy cuts the tail at 4 sigma
        assert one.metrics["from_gradient"] == 1.0
    mapless.network.zero_grad(set_to_none=True)


def test_the_gradient_leaves_no_trace_on_the_weights(mapless, anomalies):
    with torch.no_grad():
        gradient_maps(mapless, as_float(anomalies[:2]), 0.03)
    assert all(value.grad is None for value in mapless.network.parameters())


def test_a_batch_equals_one_by_one(trained, anomalies):
    batch = HeatmapExplainer().explain(trained, as_float(anomalies[:3]))
    for row in range(3):
        (single,) = HeatmapExplainer().explain(trained, as_float(anomalies[row : row + 1]))
        np.testing.assert_allclose(single.heatmap, batch[row].heatmap, atol=1e-4)


def test_no_image_no_explanation(trained):
    assert HeatmapExplainer().explain(trained, torch.zeros(0, 1, 24, 24)) == []


def test_wrong_images_and_settings_are_refused(trained):
    with pytest.raises(BadInput, match="float32"):
        HeatmapExplainer().explain(trained, torch.zeros(1, 1, 24, 24, dtype=torch.uint8))
    with pytest.raises(BadSettings, match="did you mean 'blur'"):
        HeatmapExplainer(blurr=0.1)
    with pytest.raises(BadSettings, match="level"):
        HeatmapExplainer(level=1.5)


def test_the_version_follows_the_settings():
    assert HeatmapExplainer().version != HeatmapExplainer(blur=0.1).version
    assert isinstance(HeatmapExplainer(), Explainer)
