"""One pass over scenes against the exact figures of two passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xadflow.detectors.base import VOID
from xadflow.errors import BadInput, NotFinite
from xadflow.metrics.open_set import Scene, confusions, fold_figures, open_set_figures, weighted_by_images
from xadflow.metrics.pixels import per_image_figures, pooled_figures
from xadflow.metrics.scenes import SceneFigures
from xadflow.metrics.streaming import BINS, Bins


def drawn(seed: int, images: int, classes: int = 4, size: int = 12, noise: float = 1.0) -> Scene:
    rng = np.random.default_rng(seed)
    shape = (images, size, size)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    anomaly = rng.random(shape) < rng.uniform(0.02, 0.4)
    anomaly[:, :2, :2] = True
    predicted = np.where(rng.random(shape) < 0.8, labels, rng.integers(0, classes, shape))
    labels[rng.random(shape) < 0.1] = VOID
    scores = noise * rng.normal(size=shape) + anomaly
    return Scene(
        torch.from_numpy(scores),
        torch.from_numpy(predicted.astype(np.int64)),
        torch.from_numpy(labels),
        torch.from_numpy(anomaly),
    )


def collected(folds: tuple[Scene, Scene], bins: Bins, classes: int = 4, **settings: object) -> SceneFigures:
    scenes = SceneFigures(classes, bins, **settings)
    for number, fold in enumerate(folds):
        scenes.add(*fold, number)
    return scenes


@given(st.integers(0, 100_000), st.sampled_from([1, 3, 40, BINS]), st.booleans(), st.integers(1, 4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_exact_figure_lies_between_the_ends(seed, count, strict, classes):
    folds = drawn(seed, 3, classes), drawn(seed + 1, 2, classes)
    found = collected(folds, Bins(-2.5, 3.0, count), classes, strict=strict).summary()
    exact = open_set_figures(([folds[0]], [folds[1]]), classes, strict=strict)
    assert found.open_set is not None
    for name in ("open_miou", "gap", "anomaly_iou"):
        bounded = getattr(found.open_set, name)
        assert bounded.low - 1e-12 <= getattr(exact, name) <= bounded.high + 1e-12, name
        assert bounded.low <= bounded.value <= bounded.high, name
    assert found.open_set.closed_miou == pytest.approx(exact.closed_miou, abs=1e-12)
    both = Scene(*(torch.cat(parts) for parts in zip(*folds, strict=True)))
    pooled = pooled_figures(both.scores, both.anomaly, (both.labels == VOID) & ~both.anomaly, strict=strict)
    for name in ("average_precision", "auroc", "fpr_at_95_tpr", "threshold"):
        assert (
            getattr(found.pooled, name).low - 1e-12 <= getattr(pooled, name) <= getattr(found.pooled, name).high + 1e-12
        )
    assert (found.pooled.anomalous, found.pooled.inliers) == (pooled.anomalous, pooled.inliers)


@pytest.mark.parametrize("count", [5, 300, BINS])
def test_at_its_own_threshold_the_one_pass_is_exact(count):
    folds = drawn(7, 3), drawn(8, 2)
    found = collected(folds, Bins(-4.0, 5.0, count)).summary().open_set
    exact = [
        fold_figures(*confusions([fold], 4, own.threshold), own.threshold)
        for fold, own in zip(folds, found.folds, strict=True)
    ]
    assert found.folds == tuple(exact)
    assert found.open_miou.value == pytest.approx(weighted_by_images(*exact).open_miou, abs=1e-15)


def test_usual_scores_have_small_bounds():
    folds = drawn(1, 20, size=32), drawn(2, 20, size=32)
    metrics = collected(folds, Bins(-6.0, 7.0)).summary().as_metrics()
    bounds = {name: value for name, value in metrics.items() if name.endswith("_bound")}
    assert len(bounds) == 7
    assert max(bounds.values()) < 1e-3


def test_swapping_the_folds_swaps_the_thresholds():
    folds = drawn(1, 2), drawn(2, 2, noise=2.0)
    there, back = (collected(pair, Bins(-6.0, 7.0)).summary().open_set for pair in (folds, folds[::-1]))
    assert there.folds == back.folds[::-1]
    assert there.folds[0].threshold != there.folds[1].threshold


def test_batches_and_mixed_folds_do_not_matter():
    folds = drawn(3, 2), drawn(4, 3)
    whole = collected(folds, Bins(-3.0, 4.0), keep_scenes=True, per_image=True).summary()
    mixed = SceneFigures(4, Bins(-3.0, 4.0), keep_scenes=True, per_image=True)
    order = [4, 0, 2, 1, 3]
    mixed.add(*(torch.cat(parts)[order] for parts in zip(*folds, strict=True)), [1, 0, 1, 0, 1])
    again = mixed.summary()
    assert again.as_metrics() == pytest.approx(whole.as_metrics(), abs=1e-12)
    assert (again.pooled, again.open_set) == (whole.pooled, whole.open_set)


def test_figures_per_image_are_the_exact_ones():
    folds = drawn(3, 2), drawn(4, 3)
    found = collected(folds, Bins(-3.0, 4.0), per_image=True).summary()
    both = Scene(*(torch.cat(parts) for parts in zip(*folds, strict=True)))
    assert found.per_image == per_image_figures(both.scores, both.anomaly, (both.labels == VOID) & ~both.anomaly)
    assert found.as_metrics()["per_image_auroc"] == found.per_image.auroc != found.pooled.auroc.value
    assert collected(folds, Bins(-3.0, 4.0)).summary().per_image is None


@pytest.mark.parametrize("value", [1e6, -1e6, math.nan])
def test_ignored_pixels_never_enter(value):
    folds = drawn(3, 2), drawn(4, 2)
    changed = []
    for fold in folds:
        void = (fold.labels == VOID) & ~fold.anomaly
        changed.append(
            fold._replace(
                scores=torch.where(void, value, fold.scores), classes=torch.where(void, 3 - fold.classes, fold.classes)
            )
        )
    before, after = (collected(pair, Bins(-3.0, 4.0), per_image=True).summary() for pair in (folds, tuple(changed)))
    assert before == after


def test_megapixel_maps_do_not_make_the_state_grow():
    rng = torch.Generator().manual_seed(0)
    shape = (1, 1024, 2048)
    scores, labels = torch.randn(shape, generator=rng), torch.randint(0, 3, shape, generator=rng, dtype=torch.uint8)
    anomaly = torch.zeros(shape, dtype=torch.bool)
    anomaly[:, 100:300, 400:900] = True
    scores[anomaly] += 2
    scenes = SceneFigures(3, Bins(-8.0, 10.0))
    sizes = []
    for number in range(4):
        scenes.add(scores + 0.1 * number, labels.long(), labels, anomaly, number % 2)
        held = [
            part for part in (*vars(scenes).values(), *vars(scenes.watch).values()) if isinstance(part, torch.Tensor)
        ]
        sizes.append(sum(part.untyped_storage().nbytes() for part in held))
    assert len(held) == 6
    assert set(sizes) == {sizes[0]}
    assert sizes[0] < 12e6
    assert scenes.scenes is None
    found = scenes.summary()
    exact = pooled_figures(torch.stack([scores + 0.1 * number for number in range(4)]), anomaly.expand(4, 1, -1, -1))
    assert found.pooled.anomalous == exact.anomalous == 400_000
    assert found.pooled.average_precision.low <= exact.average_precision <= found.pooled.average_precision.high
    assert found.pooled.average_precision.error < 1e-3
    assert found.open_set.closed_miou == 1.0


def test_without_two_folds_there_is_no_open_set_and_the_summary_says_why():
    one = drawn(1, 2)
    found = SceneFigures(4, Bins(-3.0, 4.0))
    found.add(*one)
    assert found.summary().open_set is None
    assert "two folds" in found.summary().without_open_set
    assert "open_miou" not in found.summary().as_metrics()
    found.add(*one._replace(anomaly=torch.zeros_like(one.anomaly)), 1)
    assert found.summary().open_set is None
    found.add(*one, 1)
    assert found.summary().without_open_set is None


def test_what_has_no_figure_is_an_error_and_not_a_number():
    good = drawn(1, 2)
    nothing, void = torch.zeros_like(good.anomaly), torch.full_like(good.labels, VOID)
    for scene in (
        good._replace(labels=void, anomaly=nothing),
        good._replace(anomaly=nothing),
        good._replace(labels=void),
    ):
        with pytest.raises(BadInput, match="anomalous pixels and inliers"):
            collected((scene, scene), Bins(-3.0, 4.0), per_image=True, keep_scenes=True).summary()
    with pytest.raises(BadInput, match="anomalous pixels and inliers"):
        SceneFigures(4, Bins(0.0, 1.0)).summary()


def test_what_is_out_of_range_is_refused_in_the_end():
    good = drawn(1, 2)
    for wrong in (
        good._replace(classes=good.classes + 2),
        good._replace(classes=good.classes - 2),
        good._replace(labels=good.labels // 2 + 100),
    ):
        scenes = collected((good, wrong), Bins(-3.0, 4.0), keep_scenes=True)
        with pytest.raises(BadInput, match="lie in 0..3"):
            scenes.summary()
    with pytest.raises(NotFinite):
        collected((good, good._replace(scores=good.scores / 0)), Bins(-3.0, 4.0)).summary()
    with pytest.raises(BadInput, match="fold 0 or 1"):
        SceneFigures(4, Bins(-3.0, 4.0)).add(*good, 2)
    with pytest.raises(BadInput, match="fold 0 or 1"):
        SceneFigures(4, Bins(-3.0, 4.0)).add(*good, [0])
    with pytest.raises(BadInput, match="known classes"):
        SceneFigures(0, Bins(-3.0, 4.0))
