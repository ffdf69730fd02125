"""Exact pixel figures against definitions over all pairs and thresholds, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from xadflow.errors import BadInput, NotFinite
from xadflow.metrics.pixels import per_image_figures, pooled_figures
from xadflow.metrics.ranks import fpr_at_tpr_of, rank


def by_definition(scores: np.ndarray, labels: np.ndarray, tpr: float = 0.95, strict: bool = True) -> tuple[float, ...]:
    """AP, AUROC, FPR and threshold, threshold by threshold and pair by pair."""
    anomalies, inliers = scores[labels], scores[~labels]
    precision = last = 0.0
    rate, threshold = None, None
    for cut in np.unique(scores)[::-1]:
        recall = (anomalies >= cut).sum() / anomalies.size
        precision += (recall - last) * labels[scores >= cut].mean()
        last = recall
        if rate is None and (recall > tpr if strict else recall >= tpr):
            rate, threshold = (inliers >= cut).mean(), cut
    pairs = (anomalies[:, None] > inliers).sum() + 0.5 * (anomalies[:, None] == inliers).sum()
    return precision, pairs / (anomalies.size * inliers.size), rate, threshold


def drawn(seed: int, levels: int | None, pixels: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.random(pixels) < rng.uniform(0.05, 0.6)
    labels[:2] = True, False
    scores = rng.normal(size=pixels) * 10 ** rng.uniform(-3, 3) + labels
    if levels is not None:
        scores = np.round(scores * levels) / levels
    return torch.from_numpy(scores)[None, None], torch.from_numpy(labels)[None, None]


@given(st.integers(0, 100_000), st.sampled_from([None, 1, 4]), st.booleans(), st.sampled_from([0.5, 0.9, 0.95]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_figures_equal_their_definition_with_and_without_ties(seed, levels, strict, tpr):
    maps, anomaly = drawn(seed, levels)
    found = pooled_figures(maps, anomaly, tpr=tpr, strict=strict)
    scores, labels = maps.numpy().ravel(), anomaly.numpy().ravel()
    ours = (found.average_precision, found.auroc, found.fpr_at_95_tpr, found.threshold)
    assert ours == pytest.approx(by_definition(scores, labels, tpr, strict), abs=1e-9)
    assert ours[:2] == pytest.approx((average_precision_score(labels, scores), roc_auc_score(labels, scores)), abs=1e-9)


@given(st.integers(0, 100_000), st.sampled_from([None, 4]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_monotone_maps_of_the_score_change_nothing(seed, levels):
    maps, anomaly = drawn(seed, levels)
    spread = maps / maps.abs().max()
    plain, bent = pooled_figures(spread, anomaly), pooled_figures(torch.exp(3 * spread) - 7, anomaly)
    assert (bent.average_precision, bent.auroc, bent.fpr_at_95_tpr) == pytest.approx(
        (plain.average_precision, plain.auroc, plain.fpr_at_95_tpr), abs=1e-12
    )


def test_the_recall_must_be_passed_unless_reaching_it_is_asked_for():
    scores = torch.tensor([*range(1, 21), 0.2, 0.5, 1.5, 3.5], dtype=torch.float32)[None]
    anomaly = (torch.arange(24) < 20)[None]
    strict, reached = pooled_figures(scores, anomaly), pooled_figures(scores, anomaly, strict=False)
    assert (strict.fpr_at_95_tpr, strict.threshold) == (0.5, 1.0)
    assert (reached.fpr_at_95_tpr, reached.threshold) == (0.25, 2.0)
    table = rank(scores[0].numpy(), anomaly[0].numpy()).table()
    assert (fpr_at_tpr_of(*table, strict=True), fpr_at_tpr_of(*table)) == (0.5, 0.25)


def test_pooled_and_per_image_figures_are_not_the_same():
    """Each image is ranked perfectly; together the inliers of the second lie above the anomalies of the first."""
    maps = torch.tensor([[[0.0, 1.0, 2.0, 3.0]], [[10.0, 11.0, 12.0, 13.0]]])
    anomaly = torch.tensor([[[False, False, True, True]], [[False, False, True, True]]])
    pooled, single = pooled_figures(maps, anomaly), per_image_figures(maps, anomaly)
    assert (single.average_precision, single.auroc, single.fpr_at_95_tpr) == (1.0, 1.0, 0.0)
    assert pooled.auroc == 0.75
    assert pooled.fpr_at_95_tpr == 0.5
    assert pooled.average_precision == pytest.approx(0.25 + 0.25 + 0.25 * 3 / 5 + 0.25 * 4 / 6)


def test_images_without_both_kinds_are_left_out_and_counted():
    maps = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0))
    anomaly = torch.zeros(4, 3, 3, dtype=torch.bool)
    ignored = torch.zeros_like(anomaly)
    anomaly[0, 0] = anomaly[1] = True  # the second has no inlier, the third no anomaly, the fourth nothing at all
    ignored[3] = True
    found = per_image_figures(maps, anomaly, ignored)
    alone = pooled_figures(maps[:1], anomaly[:1])
    assert (found.images, found.without_inlier, found.without_anomaly) == (1, 1, 2)
    assert (found.average_precision, found.auroc, found.fpr_at_95_tpr) == (
        alone.average_precision,
        alone.auroc,
        alone.fpr_at_95_tpr,
    )
    none = per_image_figures(maps[2:], anomaly[2:], ignored[2:])
    assert (none.average_precision, none.auroc, none.fpr_at_95_tpr, none.images) == (None, None, None, 0)


def test_the_per_image_mean_is_the_mean_of_its_images():
    rng = torch.Generator().manual_seed(1)
    maps = [torch.randn(5, 4 + size, generator=rng) for size in range(3)]  # images of different sizes
    anomaly = [torch.rand(image.shape, generator=rng) < 0.4 for image in maps]
    found = per_image_figures(maps, anomaly)
    each = [
        by_definition(one.double().numpy().ravel(), mask.numpy().ravel())
        for one, mask in zip(maps, anomaly, strict=True)
    ]
    means = np.mean(np.array([row[:3] for row in each]), axis=0)
    assert (found.average_precision, found.auroc, found.fpr_at_95_tpr) == pytest.approx(tuple(means), abs=1e-9)


def test_ignored_pixels_never_enter():
    maps, anomaly = drawn(3, 4)
    ignored = torch.zeros_like(anomaly)
    ignored[..., ::3] = True
    before = pooled_figures(maps, anomaly, ignored)
    assert before == pooled_figures(maps[~ignored][None], anomaly[~ignored][None])
    for odd in (1e9, -1e9, float("nan")):
        changed = torch.where(ignored, odd, maps)
        assert pooled_figures(changed, anomaly ^ ignored, ignored) == before
    assert before != pooled_figures(maps, anomaly)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_are_ranked_as_they_are(dtype):
    maps, anomaly = drawn(5, None)
    short = (maps / maps.abs().max()).to(dtype)
    found = pooled_figures(short, anomaly)
    expected = by_definition(short.double().numpy().ravel(), anomaly.numpy().ravel())
    assert (found.average_precision, found.auroc, found.fpr_at_95_tpr, found.threshold) == pytest.approx(
        expected, abs=1e-9
    )


def test_what_has_no_figure_is_an_error_and_not_a_number():
    maps, anomaly = drawn(0, None)
    everything = torch.ones_like(anomaly)
    with pytest.raises(BadInput, match="0 anomalous, 0 inliers"):
        pooled_figures(maps, anomaly, everything)
    with pytest.raises(BadInput, match="0 anomalous, 120 inliers"):
        pooled_figures(maps, ~everything)
    with pytest.raises(BadInput, match="120 anomalous, 0 inliers"):
        pooled_figures(maps, everything)
    with pytest.raises(BadInput, match="0 maps"):
        pooled_figures([], [])
    with pytest.raises(NotFinite, match="1 that are not"):
        pooled_figures(torch.where(torch.arange(120) == 7, torch.nan, maps), anomaly)


def test_masks_of_other_shapes_or_types_are_refused():
    maps, anomaly = drawn(0, None)
    with pytest.raises(BadInput, match="anomaly mask is bool"):
        pooled_figures(maps, anomaly.to(torch.uint8))
    with pytest.raises(BadInput, match="ignored mask is bool"):
        pooled_figures(maps, anomaly, anomaly[..., :5])
    with pytest.raises(BadInput, match="raw floats"):
        pooled_figures(maps.long(), anomaly)
    with pytest.raises(BadInput, match="each map needs its masks"):
        pooled_figures(maps, torch.cat([anomaly, anomaly]))
    for tpr, strict in ((0.0, True), (1.0, True), (1.1, False)):
        with pytest.raises(BadInput, match="a recall lies"):
            pooled_figures(maps, anomaly, tpr=tpr, strict=strict)
    assert pooled_figures(maps, anomaly, tpr=1.0, strict=False).fpr_at_95_tpr > 0
