"""The tie trap: a sigmoid between distances of size 50 and the metric gave an AUROC of .500 without any warning."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from xadflow.errors import BadInput
from xadflow.metrics.detection import MAX_TIED_SHARE, auroc, summarise_detection, tied_share
from xadflow.metrics.localisation import pixel_auroc


@pytest.fixture
def distances():
    """1,017 raw distances between 24 and 52 as a memory bank gives them, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [302, 715])
    scores = np.clip(rng.normal(34, 4, 1017) + 5 * labels, 24.5, 52) + rng.random(1017) * 1e-6
    return scores, labels


def test_raw_distances_of_size_50_are_evaluated_as_scikit_learn_does(distances):
    scores, labels = distances
    summary = summarise_detection(scores, labels)
    assert summary.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert summary.n_unique == 1017
    assert summary.tied_share == 0.0


@pytest.mark.parametrize(
    "squash",
    [
        lambda scores: expit(scores.astype(np.float32)),
        lambda scores: np.clip(scores, 0, 1),
        lambda scores: np.clip((scores - 24) / 14, 0, 0.6),
        lambda scores: np.round(scores / 10),
    ],
)
def test_squashed_clamped_or_rounded_distances_are_refused(distances, squash):
    scores, labels = distances
    with pytest.raises(BadInput, match="equal scores.*tied.*raw scores"):
        summarise_detection(squash(scores), labels)
    with pytest.raises(BadInput, match="equal scores"):
        pixel_auroc(squash(scores).reshape(1, 9, 113), labels.reshape(1, 9, 113))


def test_ties_below_the_limit_cannot_move_auroc_by_more_than_half_of_it(distances):
    scores, labels = distances
    clamped = np.minimum(scores, np.quantile(scores, 0.97))
    share = tied_share(clamped, labels)
    assert 0 < share <= MAX_TIED_SHARE
    assert abs(summarise_detection(clamped, labels).auroc - auroc(scores, labels)) <= share / 2


def test_the_limit_can_be_raised_for_scores_that_are_counts(distances):
    scores, labels = distances
    summary = summarise_detection(np.round(scores), labels, max_tied_share=0.5)
    assert summary.tied_share == pytest.approx(tied_share(np.round(scores), labels))


def test_ties_inside_one_class_are_no_reason_to_refuse():
    labels = np.repeat([0, 1], 50)
    scores = np.r_[np.zeros(50), np.arange(1.0, 51.0)]
    assert summarise_detection(scores, labels).auroc == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        ([1.0, 2.0], [0, 0], "normals and anomalies"),
        ([1.0, 2.0], [1, 1], "normals and anomalies"),
        ([1.0, math.nan], [0, 1], "finite"),
        ([1.0, math.inf], [0, 1], "finite"),
        ([1.0, 2.0], [0, 2], "labels must be 0"),
        ([1.0, 2.0], [0.0, math.nan], "labels must be 0"),
        ([1.0, 2.0, 3.0], [0, 1], "one length"),
        ([[1.0, 2.0]], [[0, 1]], "one length"),
        ([], [], "needs scores"),
    ],
)
def test_input_without_an_answer_is_an_error_not_nan(scores, labels, words):
    with pytest.raises(BadInput, match=words):
        summarise_detection(scores, labels)


def test_pixel_shapes_must_agree():
    with pytest.raises(BadInput, match="one shape"):
        pixel_auroc(np.zeros((1, 2, 2)), np.zeros((1, 2, 3), bool))


def test_a_list_of_names_of_another_length_is_refused():
    with pytest.raises(BadInput, match="one name an image"):
        summarise_detection([0.0, 1.0, 2.0], [0, 1, 1], defects=["crack"])
