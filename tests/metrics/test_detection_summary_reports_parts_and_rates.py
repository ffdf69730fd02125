from __future__ import annotations

import math
import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xadflow.errors import BadInput
from xadflow.metrics.detection import summarise_detection, wilson_rate


@pytest.fixture
def evaluated():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [80, 60])
    scores = rng.normal(size=140) + 1.5 * labels
    defects = [None] * 80 + ["crack"] * 40 + ["hot spot/ü"] * 20
    categories = ["mono", "poly"] * 70
    return scores, labels, defects, categories


def test_a_defects_auroc_stands_against_all_normals_and_a_categorys_inside_it(evaluated):
    scores, labels, defects, categories = evaluated
    summary = summarise_detection(scores, labels, defects=defects, categories=categories)
    names = np.array([name or "" for name in defects])
    for name, value in summary.by_defect.items():
        chosen = (labels == 0) | (names == name)
        assert value == pytest.approx(roc_auc_score(labels[chosen], scores[chosen]), abs=1e-12)
    for name, value in summary.by_category.items():
        chosen = np.array(categories) == name
        assert value == pytest.approx(roc_auc_score(labels[chosen], scores[chosen]), abs=1e-12)
    assert set(summary.by_defect) == {"crack", "hot spot/ü"}
    assert set(summary.by_category) == {"mono", "poly"}


def test_a_category_with_one_class_has_no_figure(evaluated):
    scores, labels, _, _ = evaluated
    categories = ["only normal"] * 10 + ["both"] * 120 + [None] * 10
    assert set(summarise_detection(scores, labels, categories=categories).by_category) == {"both"}


def test_a_defect_name_on_a_normal_image_is_not_read(evaluated):
    scores, labels, defects, _ = evaluated
    marked = ["good" if label == 0 else defect for label, defect in zip(labels, defects, strict=True)]
    plain = summarise_detection(scores, labels, defects=defects)
    assert summarise_detection(scores, labels, defects=marked) == plain


def test_rates_at_the_threshold_count_scores_strictly_above_it(evaluated):
    scores, labels, _, _ = evaluated
    cut = float(np.sort(scores[labels == 0])[-5])
    summary = summarise_detection(scores, labels, cut)
    assert (summary.false_alarm_rate.count, summary.false_alarm_rate.of) == (4, 80)
    assert summary.recall.value == (scores[labels == 1] > cut).mean()


@pytest.mark.parametrize(("count", "of"), [(0, 10), (10, 10), (3, 17), (302, 1017), (1, 1)])
def test_at_an_end_of_wilsons_interval_the_share_is_as_far_off_as_the_level_allows(count, of):
    """Wilson: (share - end)² = z² end (1 - end) / of, z for 95 %; a share of 0 or 1 is an end itself."""
    rate = wilson_rate(count, of)
    assert rate.value == count / of
    assert rate.low <= rate.value <= rate.high
    for end in (rate.low, rate.high):
        assert (rate.value - end) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / of, abs=1e-12)
    assert (rate.low == 0.0) == (count == 0)
    assert (rate.high == 1.0) == (count == of)


def test_wilson_of_nothing_is_not_a_number_and_of_too_many_an_error():
    assert math.isnan(wilson_rate(0, 0).value)
    with pytest.raises(BadInput):
        wilson_rate(3, 2)


def test_metrics_are_flat_finite_and_named_as_mlflow_allows(evaluated):
    scores, labels, defects, categories = evaluated
    metrics = summarise_detection(scores, labels, 1.0, defects=defects, categories=categories).as_metrics()
    assert {
        "auroc",
        "auroc_low",
        "auroc_high",
        "recall",
        "false_alarm_rate",
        "threshold",
        "normals",
        "auroc_defect.crack",
        "auroc_defect.hot_spot__",
        "auroc_category.mono",
    } <= set(metrics)
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]{1,200}", name) for name in metrics)
    assert not {"recall", "threshold"} & set(summarise_detection(scores, labels).as_metrics())


def test_two_defect_names_that_become_one_keep_both_figures(evaluated):
    scores, labels, _, _ = evaluated
    metrics = summarise_detection(scores, labels, defects=["a b"] * 100 + ["a/b"] * 40).as_metrics()
    assert {"auroc_defect.a_b", "auroc_defect.a_b_2"} <= set(metrics)
