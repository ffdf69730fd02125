"""Intervals over scenes against figures of sets that are put together scene by scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import scene_intervals
from benchmarks.scene_intervals import mean_paired_scene_tests, paired_scene_tests
from xadflow.detectors.base import VOID
from xadflow.errors import BadInput
from xadflow.metrics.open_set import Scene
from xadflow.metrics.pixels import pooled_figures
from xadflow.metrics.scenes import SceneFigures
from xadflow.metrics.streaming import Bins

NAMES = ["average_precision", "auroc", "fpr_at_95_tpr", "open_miou", "closed_miou", "open_set_gap", "anomaly_iou"]
BINS = Bins(-8.0, 10.0)
FOLDS = [0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1]


def drawn(seed: int, images: int = 12, size: int = 16) -> Scene:
    rng = np.random.default_rng(seed)
    shape = (images, size, size)
    labels = rng.integers(0, 3, shape).astype(np.uint8)
    anomaly = rng.random(shape) < rng.uniform(0.02, 0.4, (images, 1, 1))
    anomaly[:, :2, :2] = True
    predicted = np.where(rng.random(shape) < 0.8, labels, rng.integers(0, 3, shape))
    labels[rng.random(shape) < 0.1] = VOID
    scores = rng.normal(size=shape) + anomaly * rng.uniform(0, 3, (images, 1, 1))
    return Scene(
        torch.from_numpy(scores),
        torch.from_numpy(predicted.astype(np.int64)),
        torch.from_numpy(labels),
        torch.from_numpy(anomaly),
    )


def collected(scene: Scene, folds: list[int] = FOLDS, bins: Bins = BINS) -> SceneFigures:
    scenes = SceneFigures(3, bins, keep_scenes=True)
    for place, fold in enumerate(folds):  # kept in this order
        scenes.add(*(part[place : place + 1] for part in scene), fold)
    return scenes


def resampled(scene: Scene, seed: int, count: int) -> list[list[int]]:
    """The scenes of each resample, in the order in which the module draws."""
    scenes = collected(scene)
    weights = np.concatenate(list(scene_intervals._weights(scene_intervals._counts(scenes), count, seed)))
    return [np.repeat(np.arange(12), row.astype(int)).tolist() for row in weights]


def test_a_resample_is_as_many_scenes_of_each_fold():
    for chosen in resampled(drawn(0), seed=3, count=120):
        assert sum(FOLDS[place] for place in chosen) == sum(FOLDS) == len(chosen) / 2


def test_figures_of_resamples_are_those_of_the_sets_put_together(monkeypatch):
    monkeypatch.setattr(scene_intervals, "LEVELS", 2**20)  # no merging: the streaming bins themselves
    scene, bins = drawn(0), Bins(-8.0, 10.0, 200)  # coarse: pixels share the bin of the threshold
    scenes = collected(scene, bins=bins)
    cuts = scenes.cuts()
    found = scene_intervals._resampled(scenes, scene_intervals._counts(scenes), 100, 3)
    assert list(found) == NAMES
    for number, chosen in enumerate(resampled(scene, 3, 100)[:12]):
        again = collected(Scene(*(part[chosen] for part in scene)), [FOLDS[place] for place in chosen], bins)
        monkeypatch.setattr(again, "cuts", lambda: cuts)  # thresholds stay those of the whole set
        expected = again.summary().as_metrics()
        for name in NAMES:
            assert found[name][number] == pytest.approx(expected[name], abs=1e-12), name


def test_merged_levels_hardly_move_the_figures():
    scene = drawn(0, size=40)
    scenes = collected(scene)
    counts = scene_intervals._counts(scenes)
    assert counts.anomalous.shape[1] <= scene_intervals.LEVELS
    merged = scene_intervals._figures(scenes, counts, np.ones((1, 12)))
    metrics = scenes.summary().as_metrics()
    for name in NAMES:
        assert merged[name][0] == pytest.approx(metrics[name], abs=1e-3), name
    exact = pooled_figures(scene.scores, scene.anomaly, (scene.labels == VOID) & ~scene.anomaly)
    assert merged["average_precision"][0] == pytest.approx(exact.average_precision, abs=1e-3)


def test_intervals_hold_their_figures_and_are_the_same_for_the_same_seed():
    scenes = collected(drawn(1))
    found = scene_intervals.scene_intervals(scenes, bootstrap=400, seed=5)
    assert list(found) == NAMES
    for name, interval in found.items():
        assert interval.low < scenes.summary().as_metrics()[name] < interval.high, name
    assert found == scene_intervals.scene_intervals(scenes, bootstrap=400, seed=5)
    assert found != scene_intervals.scene_intervals(scenes, bootstrap=400, seed=6)


def test_more_scenes_narrow_the_interval():
    few, many = drawn(2), drawn(2, images=108)
    widths = [
        scene_intervals.scene_intervals(collected(scene, folds), bootstrap=300)["auroc"]
        for scene, folds in ((few, FOLDS), (many, FOLDS * 9))
    ]
    ratio = (widths[0].high - widths[0].low) / (widths[1].high - widths[1].low)
    assert 1.5 < ratio < 6  # the root of 9, on two draws


def test_a_score_differs_from_itself_by_nothing_and_from_noise_by_much():
    scene = drawn(3)
    better = scene._replace(scores=scene.scores + scene.anomaly)
    tests = paired_scene_tests(collected(better), collected(scene), bootstrap=300)
    assert list(tests) == NAMES
    for name, sign in (
        ("average_precision", 1),
        ("auroc", 1),
        ("fpr_at_95_tpr", -1),
        ("open_miou", 1),
        ("open_set_gap", -1),
    ):
        test = tests[name]
        assert sign * test.difference > 0, name
        assert test.low <= test.difference <= test.high, name
        assert min(sign * test.low, sign * test.high) > 0, name
        assert test.p_value == pytest.approx(2 / 301), name
    assert (tests["closed_miou"].difference, tests["closed_miou"].p_value) == (0.0, 1.0)
    same = paired_scene_tests(
        collected(scene), collected(scene._replace(scores=scene.scores * 3), bins=Bins(-24.0, 30.0)), bootstrap=300
    )
    for test in same.values():
        assert (test.difference, test.low, test.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_several_trainings_give_the_mean_of_their_differences_and_one_gives_the_paired_test():
    scene = drawn(4)
    better = scene._replace(scores=scene.scores + 0.5 * scene.anomaly)
    noise = scene._replace(scores=torch.from_numpy(np.random.default_rng(1).normal(size=scene.scores.shape)))
    plain, up, down = map(collected, (scene, better, noise))
    alone = [paired_scene_tests(*pair, bootstrap=200) for pair in ((up, plain), (down, plain))]
    both = mean_paired_scene_tests([(up, plain), (down, plain)], bootstrap=200)
    assert mean_paired_scene_tests([(up, plain)], bootstrap=200) == alone[0]
    for name in NAMES:
        assert both[name].difference == pytest.approx((alone[0][name].difference + alone[1][name].difference) / 2)
        ends = [(one[name].low + alone[1][name].low) / 2 for one in alone[:1]]
        assert both[name].low >= ends[0] - 1e-12  # resamples are shared, so the mean spreads no wider than both do
    with pytest.raises(BadInput, match="needs a pair"):
        mean_paired_scene_tests([])


def test_the_paired_interval_is_narrower_than_that_of_two_sets():
    scene = drawn(4)
    rng = torch.Generator().manual_seed(0)
    noisy = scene._replace(scores=scene.scores + 0.1 * torch.randn(scene.scores.shape, generator=rng))
    test = paired_scene_tests(collected(scene), collected(noisy), bootstrap=300)["auroc"]
    alone = scene_intervals.scene_intervals(collected(scene), bootstrap=300)["auroc"]
    assert test.high - test.low < 0.2 * (alone.high - alone.low)
    swapped = paired_scene_tests(collected(noisy), collected(scene), bootstrap=300)["auroc"]
    assert (swapped.low, swapped.high) == pytest.approx((-test.high, -test.low), abs=1e-12)


def test_one_fold_has_intervals_of_pixel_figures_only():
    assert list(scene_intervals.scene_intervals(collected(drawn(5), [0] * 12), bootstrap=100)) == NAMES[:3]


def test_perfect_figures_on_few_scenes_are_not_called_certain():
    scene = drawn(6)
    perfect = collected(scene._replace(scores=scene.anomaly.double()))
    found = scene_intervals.scene_intervals(perfect, bootstrap=100)
    assert found["auroc"].high == 1.0
    assert 0.7 < found["auroc"].low < 0.8  # Wilson's for 12 of 12
    assert found["fpr_at_95_tpr"].low == 0.0


def test_wrong_requests_name_the_mistake():
    scene = drawn(7)
    scenes = collected(scene)
    with pytest.raises(BadInput, match="counts of each scene"):
        scene_intervals.scene_intervals(SceneFigures(3, BINS))
    with pytest.raises(BadInput, match="same scenes in the same order"):
        paired_scene_tests(scenes, collected(Scene(*(part.flip(0) for part in scene))))
    with pytest.raises(BadInput, match="100 resamples"):
        scene_intervals.scene_intervals(scenes, bootstrap=50)
    with pytest.raises(BadInput, match="confidence level"):
        paired_scene_tests(scenes, scenes, level=95)
    rare = scene._replace(
        anomaly=scene.anomaly & (torch.arange(12) == 0)[:, None, None]
    )  # anomalies in one scene of 12
    with pytest.raises(BadInput, match="too few scenes"):
        scene_intervals.scene_intervals(collected(rare), bootstrap=100)
