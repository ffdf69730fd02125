"""scikit-learn is the independent computation; both are float64, so 1e-12 is room for summation order only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from xadflow.metrics.detection import auroc, average_precision, fpr_at_tpr, tied_share
from xadflow.metrics.localisation import pixel_auroc
from xadflow.metrics.ranks import rank, tpr_at_fpr_of


@st.composite
def labelled_scores(draw):
    """Two classes; few distinct values now and then, so that ties are common."""
    size = draw(st.integers(2, 40))
    value = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6, allow_nan=False))
    scores = np.array(draw(st.lists(value, min_size=size, max_size=size)))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    labels[:2] = 0, 1
    return scores, labels


def sklearn_fpr95(scores, labels):
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return fpr[np.argmax(tpr >= 0.95 - 1e-12)]


@given(labelled_scores())
@settings(max_examples=120, deadline=None, derandomize=True)
def test_every_figure_equals_scikit_learn_also_with_ties(drawn):
    scores, labels = drawn
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert fpr_at_tpr(scores, labels) == pytest.approx(sklearn_fpr95(scores, labels), abs=1e-12)


@given(labelled_scores(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_order_of_images_does_not_matter(drawn, random):
    scores, labels = drawn
    order = list(range(len(scores)))
    random.shuffle(order)
    for figure in (auroc, average_precision, fpr_at_tpr):
        assert figure(scores[order], labels[order]) == figure(scores, labels)


@given(labelled_scores())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_negated_scores_mirror_auroc(drawn):
    scores, labels = drawn
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels), abs=1e-12)


def test_auroc_equals_the_count_of_all_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 300).astype(float), rng.integers(0, 2, 300)
    pairs = np.sign(scores[labels == 1][:, None] - scores[labels == 0][None, :])
    assert auroc(scores, labels) == pytest.approx(((pairs + 1) / 2).mean(), abs=1e-12)
    assert tied_share(scores, labels) == pytest.approx((pairs == 0).mean(), abs=1e-12)
    i, j = np.triu_indices(300, 1)
    assert tied_share(scores) == pytest.approx((scores[i] == scores[j]).mean(), abs=1e-12)


def test_the_roc_polygon_has_the_auroc_as_its_area():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 15, 200).astype(float), rng.integers(0, 2, 200)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    ours = tpr_at_fpr_of(*rank(scores, labels).table(), np.unique(fpr))
    upper = [tpr[fpr == x].max() for x in np.unique(fpr)]
    np.testing.assert_allclose(ours, upper, atol=1e-12)
    fine = np.linspace(0, 1, 20_001)
    area = np.trapezoid(tpr_at_fpr_of(*rank(scores, labels).table(), fine), fine)
    assert area == pytest.approx(auroc(scores, labels), abs=1e-4)  # the grid cannot stand on every vertical piece


def test_pixel_auroc_pools_all_pixels():
    rng = np.random.default_rng(2)
    maps, masks = rng.normal(size=(4, 9, 7)), rng.random((4, 9, 7)) < 0.2
    masks[0] = False
    assert pixel_auroc(maps + masks, masks) == pytest.approx(
        roc_auc_score(masks.ravel(), (maps + masks).ravel()), abs=1e-12
    )
