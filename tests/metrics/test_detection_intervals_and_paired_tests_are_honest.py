from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from xadflow.errors import BadInput, UnknownName
from xadflow.metrics import intervals
from xadflow.metrics.detection import (
    auroc,
    average_precision,
    bootstrap_interval,
    delong_paired,
    fpr_at_tpr,
    paired_bootstrap,
)
from xadflow.metrics.ranks import FIGURES, rank


def delong_by_all_pairs(a, b, labels):
    """DeLong 1988, equations as printed: kernel matrices [m,n], covariance of their row and column means."""
    components = []
    for scores in (a, b):
        x, y = scores[labels == 1][:, None], scores[labels == 0][None, :]
        kernel = (x > y) + 0.5 * (x == y)
        components.append((kernel.mean(1), kernel.mean(0), kernel.mean()))
    (xa, ya, ta), (xb, yb, tb) = components
    covariance = np.cov(np.stack([xa, xb])) / xa.size + np.cov(np.stack([ya, yb])) / ya.size
    contrast = np.array([1.0, -1.0])
    deviation = np.sqrt(contrast @ covariance @ contrast)
    return ta - tb, deviation, 2 * norm.cdf(-abs(ta - tb) / deviation)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_fast_delong_equals_the_one_over_all_pairs(seed, tied):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], rng.integers(5, 40, 2)))
    a = rng.normal(size=labels.size) + labels
    b = 0.5 * a + rng.normal(size=labels.size)
    if tied:
        a, b = np.round(a), np.round(b)
    difference, deviation, p_value = delong_by_all_pairs(a, b, labels)
    ours = delong_paired(a, b, labels)
    assert ours.difference == pytest.approx(difference, abs=1e-12)
    assert ours.difference == pytest.approx(auroc(a, labels) - auroc(b, labels), abs=1e-12)
    assert ours.p_value == pytest.approx(p_value, abs=1e-9)
    half = (ours.high - ours.low) / 2
    assert half == pytest.approx(norm.ppf(0.975) * deviation, abs=1e-12)


def test_equal_rankings_differ_by_nothing():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    scores = rng.normal(size=60) + labels
    test = delong_paired(scores, np.exp(scores), labels)
    assert (test.difference, test.low, test.high, test.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert paired_bootstrap(scores, np.exp(scores), labels).p_value == 1.0


def test_delong_refuses_what_it_cannot_judge():
    labels = np.repeat([0, 1], 5)
    with pytest.raises(BadInput, match="no variance"):
        delong_paired(np.arange(10.0), np.zeros(10), labels)
    with pytest.raises(BadInput, match="two images of each class"):
        delong_paired(np.arange(4.0), np.arange(4.0), [0, 0, 0, 1])


def test_paired_bootstrap_and_delong_agree():
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1], [150, 200])
    a = rng.normal(size=350) + 1.5 * labels
    b = a + rng.normal(size=350)
    boot, delong = paired_bootstrap(a, b, labels, seed=1), delong_paired(a, b, labels)
    assert boot.difference == pytest.approx(delong.difference, abs=1e-12)
    assert (boot.low, boot.high) == pytest.approx((delong.low, delong.high), abs=0.01)
    assert boot.p_value < 0.01
    assert delong.p_value < 0.01
    swapped = paired_bootstrap(b, a, labels, seed=1)
    assert (swapped.low, swapped.high) == pytest.approx((-boot.high, -boot.low), abs=1e-12)


def test_delong_rejects_a_true_null_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    labels = np.repeat([0, 1], [60, 60])
    shared = rng.normal(size=(300, 120)) + labels
    noise = rng.normal(size=(2, 300, 120))
    rejected = np.mean(
        [delong_paired(s + x, s + y, labels).p_value < 0.05 for s, x, y in zip(shared, *noise, strict=True)]
    )
    assert 0.02 < rejected < 0.09  # 300 trials of 5 %: standard error 1.3 %


def test_the_bootstrap_interval_covers_the_true_auroc_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    labels = np.repeat([0, 1], [60, 60])
    truth = norm.cdf(1.2 / np.sqrt(2))
    hits = 0
    for trial in range(200):
        found = bootstrap_interval(rng.normal(size=120) + 1.2 * labels, labels, bootstrap=400, seed=trial)
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("name", "figure"), [("auroc", auroc), ("average_precision", average_precision), ("fpr_at_95_tpr", fpr_at_tpr)]
)
def test_the_vectorised_bootstrap_equals_a_loop_over_the_same_resamples(name, figure):
    rng = np.random.default_rng(8)
    labels = rng.permutation(np.repeat([0, 1], [17, 23]))
    scores = np.round(rng.normal(size=40) + labels, 1)
    ranked = rank(scores, labels)
    draws = np.random.default_rng(4)
    anomalies = scores[labels == 1][draws.integers(0, 23, (150, 23))]
    normals = scores[labels == 0][draws.integers(0, 17, (150, 17))]
    marks = np.repeat([1, 0], [23, 17])
    looped = [figure(np.r_[x, y], marks) for x, y in zip(anomalies, normals, strict=True)]
    tables = list(intervals.resampled_tables(ranked, 150, seed=4))
    ours = np.concatenate([FIGURES[name](*table) for table in tables])
    np.testing.assert_allclose(ours, looped, atol=1e-12)


def test_portions_do_not_change_the_class_sizes_or_the_number_of_resamples(monkeypatch):
    monkeypatch.setattr(intervals, "CELLS_AT_ONCE", 400)
    ranked = rank(np.arange(40.0), np.repeat([0, 1], [15, 25]))
    tables = list(intervals.resampled_tables(ranked, 105, seed=0))
    assert sum(len(anomalies) for anomalies, _ in tables) == 105
    assert {int(x) for anomalies, _ in tables for x in anomalies.sum(-1)} == {25}
    assert {int(x) for _, normals in tables for x in normals.sum(-1)} == {15}


def test_an_interval_is_the_same_for_the_same_seed_and_contains_the_figure():
    rng = np.random.default_rng(9)
    labels = np.repeat([0, 1], [50, 70])
    scores = rng.normal(size=120) + labels
    first = bootstrap_interval(scores, labels, seed=3)
    assert first == bootstrap_interval(scores, labels, seed=3)
    assert first != bootstrap_interval(scores, labels, seed=4)
    assert first.low < auroc(scores, labels) < first.high


def test_perfect_separation_on_few_images_is_not_called_certain():
    found = bootstrap_interval(np.arange(20.0), np.repeat([0, 1], 10))
    assert found.high == 1.0
    assert 0.6 < found.low < 0.8
    assert bootstrap_interval(-np.arange(20.0), np.repeat([0, 1], 10)).low == 0.0


def test_wrong_requests_name_the_mistake():
    scores, labels = np.arange(4.0), [0, 1, 0, 1]
    with pytest.raises(UnknownName, match="auroc"):
        bootstrap_interval(scores, labels, "aurok")
    with pytest.raises(BadInput, match="100 resamples"):
        bootstrap_interval(scores, labels, bootstrap=5)
    with pytest.raises(BadInput, match="confidence level"):
        bootstrap_interval(scores, labels, level=95)
