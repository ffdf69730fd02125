"""Cross-fitted open-mIoU against loops over single pixels, and the golden cases of docs/explanation/methods.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from xadflow.detectors.base import VOID
from xadflow.errors import BadInput, NotFinite
from xadflow.metrics.open_set import (
    Scene,
    class_iou,
    confusion_matrix,
    fit_threshold,
    half_size,
    open_ids,
    open_set_figures,
)


def drawn(seed: int, images: int, classes: int = 3, size: int = 8, levels: int | None = None) -> Scene:
    rng = np.random.default_rng(seed)
    shape = (images, size, size)
    labels = rng.integers(0, classes, shape)
    anomaly = rng.random(shape) < 0.25
    anomaly[:, :2, :2] = True
    predicted = np.where(rng.random(shape) < 0.7, labels, rng.integers(0, classes, shape))
    scores = rng.normal(size=shape) + 1.5 * anomaly
    if levels is not None:
        scores = np.round(scores * levels) / levels
    labels[rng.random(shape) < 0.15] = VOID
    return Scene(
        torch.from_numpy(scores),
        torch.from_numpy(predicted),
        torch.from_numpy(labels.astype(np.uint8)),
        torch.from_numpy(anomaly),
    )


def threshold_by_loops(scene: Scene, strict: bool) -> float:
    """Each pixel of the half-size maps by itself."""
    found = []
    void = (scene.labels == VOID) & ~scene.anomaly
    for scores, anomaly, ignored in zip(scene.scores.tolist(), scene.anomaly.tolist(), void.tolist(), strict=True):
        for row in range(0, len(scores) - 1, 2):
            for column in range(0, len(scores[0]) - 1, 2):
                if anomaly[row][column]:
                    block = [(row + y, column + x) for y in (0, 1) for x in (0, 1) if not ignored[row + y][column + x]]
                    found.append(sum(scores[y][x] for y, x in block) / len(block))
    shares = [np.mean([one >= cut for one in found]) for cut in found]
    return max(cut for cut, share in zip(found, shares, strict=True) if share > 0.95 or (not strict and share == 0.95))


def figures_by_loops(scene: Scene, threshold: float, classes: int) -> tuple[float, float, float]:
    """Open mIoU, closed mIoU and anomaly IoU, pixel by pixel."""
    opened = np.zeros((classes + 1, 3))  # TP, FP, FN
    closed = np.zeros((classes + 1, 3))
    flat = (part.flatten().tolist() for part in scene)
    for score, predicted, label, anomalous in zip(*flat, strict=True):
        if label == VOID and not anomalous:
            continue
        true, given_id = (classes if anomalous else label), (classes if score >= threshold else predicted)
        for counts, said in ((opened, given_id), (closed, predicted)):
            if counts is closed and anomalous:
                continue
            if true == said:
                counts[true, 0] += 1
            else:
                counts[said, 1] += 1
                counts[true, 2] += 1
    ious = [[row[0] / row.sum() for row in counts[:classes] if row.sum()] for counts in (opened, closed)]
    return float(np.mean(ious[0])), float(np.mean(ious[1])), opened[classes, 0] / opened[classes].sum()


@given(st.integers(0, 100_000), st.sampled_from([None, 2]), st.booleans(), st.integers(1, 4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_figures_equal_loops_over_pixels(seed, levels, strict, classes):
    folds = drawn(seed, 3, classes, 7, levels), drawn(seed + 1, 1, classes, 7, levels)  # an odd size, unequal folds
    found = open_set_figures(([folds[0]], [folds[1]]), classes, strict=strict)
    expected = []
    for fold, own, other in ((found.folds[0], *folds), (found.folds[1], *reversed(folds))):
        threshold = threshold_by_loops(other, strict)
        assert fold.threshold == pytest.approx(threshold, abs=1e-9)
        expected.append(figures_by_loops(own, fold.threshold, classes))
        assert (fold.open_miou, fold.closed_miou, fold.anomaly_iou) == pytest.approx(expected[-1], abs=1e-9)
    assert [fold.images for fold in found.folds] == [3, 1]
    means = [0.75 * one + 0.25 * other for one, other in zip(*expected, strict=True)]
    assert (found.open_miou, found.closed_miou, found.anomaly_iou) == pytest.approx(tuple(means), abs=1e-9)
    assert found.gap == pytest.approx(means[1] - means[0], abs=1e-9)


def test_the_golden_case_of_the_page():
    true = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
    predicted = torch.tensor([0, 0, 2, 1, 1, 1, 2, 2, 0, 1])
    matrix = confusion_matrix(true, predicted, 2)
    assert matrix.dtype == np.int64
    assert matrix[3].sum() == matrix[:, 3].sum() == 0
    assert class_iou(matrix).tolist() == [0.4, 0.5, 0.25]
    assert np.nanmean(class_iou(matrix)[:2]) == pytest.approx(0.45, abs=1e-15)


def test_what_is_ignored_in_labels_or_predictions_is_in_no_iou():
    true, predicted = torch.tensor([0, 0, 1, 3, 3, 0, 2]), torch.tensor([0, 1, 1, 0, 2, 3, 3])
    matrix = confusion_matrix(true, predicted, 2)
    assert matrix.sum() == 3
    assert class_iou(matrix)[:2].tolist() == [0.5, 0.5]
    assert math.isnan(class_iou(matrix)[2])


def test_a_class_in_neither_is_left_out_and_one_only_predicted_counts_zero():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    anomaly = torch.zeros(1, 4, 4, dtype=torch.bool)
    anomaly[:, :2, :2] = True
    predicted = torch.zeros(1, 4, 4, dtype=torch.int64)
    predicted[0, 3, 3] = 1
    scene = Scene(anomaly.double(), predicted, labels, anomaly)
    fold = open_set_figures(([scene], [scene]), 3).folds[0]
    assert fold.class_iou[:2] == (11 / 12, 0.0)
    assert math.isnan(fold.class_iou[2])
    assert fold.open_miou == pytest.approx(11 / 24)


def test_swapping_the_folds_swaps_the_thresholds_and_nothing_else():
    one, other = drawn(1, 2), drawn(2, 3)
    there, back = open_set_figures(([one], [other]), 3), open_set_figures(([other], [one]), 3)
    assert there.folds == tuple(reversed(back.folds))
    assert there.folds[0].threshold == fit_threshold([other], 3) != fit_threshold([one], 3)
    assert (there.open_miou, there.gap) == pytest.approx((back.open_miou, back.gap), abs=1e-15)


def test_the_threshold_of_a_fold_is_blind_to_the_fold_itself():
    one, other = drawn(1, 2), drawn(2, 3)
    raised = one._replace(scores=one.scores + 5)
    before, after = (open_set_figures(([first], [other]), 3) for first in (one, raised))
    assert before.folds[0].threshold == after.folds[0].threshold
    assert after.folds[1].threshold == pytest.approx(before.folds[1].threshold + 5)


def test_a_pixel_at_the_threshold_is_rejected():
    labels, anomaly = torch.zeros(1, 2, 4, dtype=torch.uint8), torch.zeros(1, 2, 4, dtype=torch.bool)
    anomaly[..., :2] = True
    scene = Scene(torch.full((1, 2, 4), 3.0), torch.zeros(1, 2, 4, dtype=torch.int64), labels, anomaly)
    found = open_set_figures(([scene], [scene]), 1)
    assert (found.open_miou, found.closed_miou, found.anomaly_iou) == (0.0, 1.0, 0.5)


@pytest.mark.parametrize("value", [1e6, -1e6, math.nan])
def test_ignored_pixels_never_enter(value):
    folds = drawn(3, 2), drawn(4, 2)
    changed = []
    for fold in folds:
        void = (fold.labels == VOID) & ~fold.anomaly
        assert void.any()
        changed.append(
            fold._replace(
                scores=torch.where(void, value, fold.scores), classes=torch.where(void, 2 - fold.classes, fold.classes)
            )
        )
    assert open_set_figures(([changed[0]], [changed[1]]), 3) == open_set_figures(([folds[0]], [folds[1]]), 3)


def test_half_size_is_bilinear_and_nearest_as_in_torch_where_nothing_is_ignored():
    rng = torch.Generator().manual_seed(0)
    scores, ids = torch.randn(2, 9, 12, generator=rng).double(), torch.randint(0, 4, (2, 9, 12), generator=rng)
    small, small_ids = half_size(scores, ids, 3)
    expected = F.interpolate(scores[:, None], scale_factor=0.5, mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(small, expected, atol=1e-12)
    nearest = F.interpolate(ids[:, None].float(), scale_factor=0.5, mode="nearest")[:, 0]
    assert torch.equal(small_ids, nearest.long())


def test_an_anomaly_goes_before_its_label_and_void_is_ignored():
    labels, anomaly = (
        torch.tensor([0, 2, VOID, VOID, 1], dtype=torch.uint8),
        torch.tensor([False, False, False, True, True]),
    )
    assert open_ids(labels, anomaly, 3).tolist() == [0, 2, 4, 3, 3]


def test_folds_without_what_is_needed_are_an_error_and_not_a_number():
    good = drawn(1, 1)
    clean = good._replace(anomaly=torch.zeros_like(good.anomaly))
    bare = good._replace(labels=torch.full_like(good.labels, VOID))
    for folds in (([good], [clean]), ([clean], [good]), ([], [good])):
        with pytest.raises(BadInput, match="fit a threshold"):
            open_set_figures(folds, 3)
    with pytest.raises(BadInput, match="labelled inliers"):
        open_set_figures(([good], [bare]), 3)
    with pytest.raises(BadInput, match="fit a threshold"):
        open_set_figures(([bare._replace(anomaly=clean.anomaly)], [good]), 3)


def test_wrong_scenes_are_refused():
    good = drawn(1, 1)
    for wrong, message in (
        (good._replace(labels=good.labels.long()), "uint8 labels"),
        (good._replace(classes=good.classes[:, :4]), "one shape"),
        (good._replace(classes=good.classes.double()), "integer classes"),
        (good._replace(classes=good.classes + 3), "lie in 0..2"),
        (good._replace(labels=torch.full_like(good.labels, 7)), "lie in 0..2"),
        (good._replace(anomaly=good.anomaly.float()), "anomaly mask is bool"),
    ):
        with pytest.raises(BadInput, match=message):
            open_set_figures(([good], [wrong]), 3)
    with pytest.raises(NotFinite):
        open_set_figures(([good], [good._replace(scores=good.scores / 0)]), 3)
    with pytest.raises(BadInput, match="ids lie in"):
        confusion_matrix(torch.tensor([5]), torch.tensor([0]), 3)
