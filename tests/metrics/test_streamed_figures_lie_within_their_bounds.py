"""Figures from bins against exact ones: the exact figure is always between the two ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xadflow.errors import BadInput, NotFinite
from xadflow.metrics.pixels import pooled_figures
from xadflow.metrics.streaming import Bins, PixelHistograms, ScoreRange, StreamedFigures, count_cells, scatter_cells

NAMES = ("average_precision", "auroc", "fpr_at_95_tpr", "threshold")
ROUNDING = 1e-12  # of sums in float64


def streamed(scores: torch.Tensor, anomaly: torch.Tensor, bins: Bins, **recall: object) -> StreamedFigures:
    histograms = PixelHistograms(bins)
    for part in torch.arange(scores.numel()).chunk(3):
        histograms.add(scores[part], anomaly[part])
    return histograms.figures(**recall)


def assert_enclosed(scores: torch.Tensor, anomaly: torch.Tensor, bins: Bins, **recall: object) -> StreamedFigures:
    found, exact = streamed(scores, anomaly, bins, **recall), pooled_figures(scores[None], anomaly[None], **recall)
    for name in NAMES:
        bounded = getattr(found, name)
        assert bounded.low - ROUNDING <= getattr(exact, name) <= bounded.high + ROUNDING, name
        assert bounded.low <= bounded.value <= bounded.high, name
        assert bounded.error == max(bounded.high - bounded.value, bounded.value - bounded.low)
    assert (found.anomalous, found.inliers) == (exact.anomalous, exact.inliers)
    return found


@given(
    st.integers(0, 100_000),
    st.sampled_from([1, 2, 7, 64, 2**16]),
    st.sampled_from([None, 1, 8]),
    st.booleans(),
    st.sampled_from(["normal", "heavy", "clusters", "narrow"]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_exact_figures_lie_between_the_ends(seed, count, levels, strict, shape):
    rng = np.random.default_rng(seed)
    pixels = int(rng.integers(3, 300))
    labels = rng.random(pixels) < rng.uniform(0.02, 0.9)
    labels[:2] = True, False
    scores = {
        "normal": rng.normal(size=pixels) + labels,
        "heavy": rng.standard_cauchy(pixels) + labels,  # most of it in few bins of a found range
        "clusters": rng.choice([-1e3, 0.0, 1e3], pixels) + rng.normal(size=pixels) * 1e-3 + labels * 1e-3,
        "narrow": 1e6 + 1e-6 * rng.normal(size=pixels),
    }[shape]
    scores = torch.from_numpy(scores if levels is None else np.round(scores * levels) / levels)
    found = ScoreRange()
    found.add(scores)
    assert_enclosed(scores, torch.from_numpy(labels), found.bins(count), strict=strict)
    given_range = assert_enclosed(scores, torch.from_numpy(labels), Bins(-0.5, 0.7, count), strict=strict)
    assert given_range.below == int((scores < -0.5).sum())
    assert given_range.above == int((scores > 0.7).sum())


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_worst_arrangement_inside_the_bins_is_enclosed_and_reaches_the_end(upside_down, tied):
    """Each of four bins holds three anomalous pixels above, or below, two inliers."""
    order = -1.0 if upside_down else 1.0
    within = torch.tensor([0.3, 0.3, 0.3] if tied else [0.28, 0.3, 0.32])
    scores = torch.cat([number + 0.5 + order * torch.cat([within, -within[:2]]) for number in range(4)])
    anomaly = torch.tensor([True, True, True, False, False] * 4)
    found, exact = assert_enclosed(scores, anomaly, Bins(0.0, 4.0, 4)), pooled_figures(scores[None], anomaly[None])
    assert exact.auroc == pytest.approx(found.auroc.low if upside_down else found.auroc.high, abs=1e-12)
    assert exact.fpr_at_95_tpr == (found.fpr_at_95_tpr.high if upside_down else found.fpr_at_95_tpr.low)
    if tied and not upside_down:
        assert exact.average_precision == pytest.approx(found.average_precision.high, abs=1e-12)
    if upside_down and not tied:  # the integral in place of the sum costs this much
        assert exact.average_precision == pytest.approx(found.average_precision.low, abs=0.01)


def test_scores_of_one_bin_leave_everything_open():
    scores = torch.linspace(0.0, 1.0, 50)
    found = assert_enclosed(scores, torch.arange(50) % 5 == 0, Bins(-10.0, 10.0, 1))
    assert (found.auroc.value, found.auroc.low, found.auroc.high) == (0.5, 0.0, 1.0)
    assert (found.fpr_at_95_tpr.low, found.fpr_at_95_tpr.high) == (0.0, 1.0)


def test_without_shared_bins_the_figures_are_exact():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.permutation(5000).astype(np.float64))
    anomaly = torch.from_numpy(rng.random(5000) < 0.1)
    found, exact = streamed(scores, anomaly, Bins(0.0, 5000.0, 5000)), pooled_figures(scores[None], anomaly[None])
    assert found.auroc.error < 1e-12
    assert found.auroc.value == pytest.approx(exact.auroc, abs=1e-12)
    assert found.average_precision.value == pytest.approx(exact.average_precision, abs=1e-12)
    assert found.threshold.value == exact.threshold


def test_usual_scores_have_small_bounds():
    rng = np.random.default_rng(1)
    anomaly = torch.from_numpy(rng.random(400_000) < 0.05)
    scores = torch.from_numpy(rng.normal(size=400_000) + 1.5 * anomaly.numpy()).float()
    found = assert_enclosed(scores, anomaly, Bins(-8.0, 10.0))
    assert found.auroc.error < 1e-4
    assert found.average_precision.error < 1e-3
    assert found.fpr_at_95_tpr.error < 2e-4


def test_the_threshold_flags_what_the_figures_say():
    rng = np.random.default_rng(2)
    anomaly = torch.from_numpy(rng.random(5000) < 0.2)
    for dtype in (torch.float32, torch.float64):
        scores = torch.from_numpy(rng.normal(size=5000) + anomaly.numpy()).to(dtype)
        found = streamed(scores, anomaly, Bins(-4.0, 5.0, 300))
        flagged = scores.double() >= found.threshold.value
        assert flagged[anomaly].double().mean() > 0.95
        assert float(flagged[~anomaly].double().mean()) == pytest.approx(found.fpr_at_95_tpr.value, abs=1e-15)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(1, 2**16), st.integers(0, 2**16))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_an_edge_is_the_smallest_score_of_its_bin(low, width, count, number):
    bins = Bins(low, low + width, count)
    edge = bins.edge(number)
    if 0 < number < count:
        around = torch.tensor([math.nextafter(edge, -math.inf), edge], dtype=torch.float64)
        assert bins.of(around).tolist() == [number - 1, number]
    else:
        assert edge == (-math.inf if number == 0 else math.inf)


def test_bins_never_fall_and_take_the_ends_in():
    bins = Bins(-1.0, 3.0, 8)
    scores = torch.tensor([-math.inf, -5.0, -1.0, -0.51, -0.5, 0.0, 2.99, 3.0, 9.0, math.inf])
    assert bins.of(scores).tolist() == [0, 0, 0, 0, 1, 2, 7, 7, 7, 7]


def test_a_constant_score_has_a_range_and_an_auroc_of_one_half():
    for value in (0.0, -3.5, 1e12):
        scores = torch.full((40,), value, dtype=torch.float64)
        found = ScoreRange()
        found.add(scores)
        assert_enclosed(scores, torch.arange(40) < 3, found.bins())


def test_ignored_pixels_never_enter():
    rng = np.random.default_rng(4)
    scores, anomaly = torch.from_numpy(rng.normal(size=(2, 9, 9))), torch.from_numpy(rng.random((2, 9, 9)) < 0.3)
    ignored = torch.from_numpy(rng.random((2, 9, 9)) < 0.4)
    results = []
    for odd in (0.0, 1e9, -1e9, math.nan):
        changed = torch.where(ignored, odd, scores)
        found = ScoreRange()
        found.add(changed, ignored)
        histograms = PixelHistograms(found.bins())
        histograms.add(changed, anomaly ^ (ignored & (changed != 0)), ignored)
        results.append(histograms.figures())
    assert results[1:] == results[:1] * 3
    assert results[0].anomalous + results[0].inliers == int((~ignored).sum())


def test_batches_do_not_matter():
    rng = np.random.default_rng(5)
    scores, anomaly = torch.from_numpy(rng.normal(size=(6, 5, 5))), torch.from_numpy(rng.random((6, 5, 5)) < 0.3)
    whole, single = PixelHistograms(Bins(-3, 3, 100)), PixelHistograms(Bins(-3, 3, 100))
    whole.add(scores, anomaly)
    for place in reversed(range(6)):
        single.add(scores[place], anomaly[place])
    assert whole.figures() == single.figures()


def test_both_ways_of_counting_give_the_same_counts():
    """`scatter_cells` is what devices other than the processor use; it runs on any."""
    rng = torch.Generator().manual_seed(0)
    cells, kept = torch.randint(0, 7, (3, 40), generator=rng), torch.rand(3, 40, generator=rng) < 0.6
    counted, scattered = torch.ones(9, dtype=torch.int64), torch.ones(9, dtype=torch.int64)
    count_cells(counted, cells, kept)
    scatter_cells(scattered, torch.where(kept, cells, 9).flatten())
    expected = [1 + sum(one == cell for one in cells[kept].tolist()) for cell in range(9)]
    assert counted.tolist() == scattered.tolist() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_counts_without_waiting():
    rng = torch.Generator().manual_seed(0)
    scores, anomaly = torch.randn(2, 64, 64, generator=rng), torch.rand(2, 64, 64, generator=rng) < 0.2
    here, there = PixelHistograms(Bins(-4, 4)), PixelHistograms(Bins(-4, 4), "cuda")
    here.add(scores, anomaly, ~anomaly & (scores > 1))
    on_gpu = [part.cuda() for part in (scores, anomaly, ~anomaly & (scores > 1))]
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.add(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert here.figures() == there.figures()


def test_what_has_no_figure_is_an_error_and_not_a_number():
    scores, mask = torch.zeros(2, 3, 3), torch.zeros(2, 3, 3, dtype=torch.bool)
    for anomaly, ignored in ((mask, None), (~mask, None), (mask, ~mask)):
        histograms = PixelHistograms(Bins(0, 1))
        histograms.add(scores, anomaly, ignored)
        with pytest.raises(BadInput, match="anomalous pixels and inliers"):
            histograms.figures()
    odd = PixelHistograms(Bins(0, 1))
    odd.add(torch.full((2, 3, 3), math.nan), mask)
    odd.add(scores, ~mask)
    with pytest.raises(NotFinite, match="18 pixels"):
        odd.figures()
    found = ScoreRange()
    with pytest.raises(BadInput, match="a range needs scores"):
        found.bins()
    found.add(scores, ~mask)
    with pytest.raises(BadInput, match="a range needs scores"):
        found.bins()
    found.add(scores + math.inf)
    with pytest.raises(NotFinite):
        found.bins()


@pytest.mark.parametrize(
    "given_range", [(1.0, 1.0, 4), (1.0, 0.0, 4), (0.0, math.inf, 4), (0.0, 1.0, 0), (1e9, 1e9 + 1e-5, 2**16)]
)
def test_ranges_that_cannot_be_divided_are_refused(given_range):
    with pytest.raises(BadInput, match="finite range"):
        Bins(*given_range)
