"""DenseHybrid as a Detector of scenes, on a small trained one (docs/explanation/methods.md, "DenseHybrid", tests 1 and
10).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.detectors.dense_hybrid.conftest import CLASSES, NONE, SIDE, TINY, run_in, scenes, training_data
from tests.detectors.family_contract import check_gradient, check_same
from xadflow.detectors import as_float, load_detector
from xadflow.detectors.base import Cued
from xadflow.detectors.dense_hybrid.detector import DenseHybrid
from xadflow.detectors.dense_hybrid.networks import SceneNet, build_net, pixel_head
from xadflow.detectors.dense_hybrid.reading import LN_P_OUT, MINUS_LN_P_HAT
from xadflow.explainers import build_explainer
from xadflow.metrics.ranks import average_precision

Foreign = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def with_score(trained: DenseHybrid, **score: object) -> DenseHybrid:
    """The same net under another score; nothing is trained."""
    other = DenseHybrid(score=score)
    other._net, other._shape, other._classes = trained.net, trained.input_shape, trained.classes
    return other


def test_heads_have_the_published_count_of_parameters_and_maps_a_quarter_of_the_sides():
    def count(parts: list[torch.nn.Parameter]) -> int:
        return sum(part.numel() for part in parts)

    assert [count(list(pixel_head(width, 2).parameters())) for width in (128, 304, 64)] == [514, 1218, 258]
    net = build_net("mobile", 6, 1, pretrained=False).eval()
    assert count(net.head_parameters()) == 258
    groups = (net.trunk_parameters(), net.other_parameters(), net.head_parameters())
    assert sum(count(group) for group in groups) == count(list(net.parameters()))
    with torch.no_grad():
        for sides, grid in (((16, 16), (4, 4)), ((17, 33), (5, 9)), ((50, 61), (13, 16))):
            s, o = net(torch.rand(2, 1, *sides))
            assert (s.shape, o.shape) == ((2, 6, *grid), (2, 2, *grid))


def test_normalisation_moves_with_the_net():
    net: SceneNet = build_net("mobile", 2, 3, pretrained=False)
    assert {"mean", "std"} <= set(net.state_dict())
    assert net.to(torch.float64).mean.dtype == torch.float64
    assert net.to("meta").std.device.type == "meta"


def test_it_has_cues_and_the_classes_it_was_given(trained: DenseHybrid):
    assert isinstance(trained, Cued)
    assert trained.anomaly_sources(training_data()) == ("outliers",)
    assert trained.classes == CLASSES


def test_cues_add_up_to_the_map_and_classes_are_those_of_the_logits(trained: DenseHybrid, foreign_scenes: Foreign):
    images = as_float(foreign_scenes[1][:3])
    with torch.no_grad():
        cues, scores, logits = trained.cues(images), trained.score(images), trained.class_logits(images)
    assert list(cues.maps) == [LN_P_OUT, MINUS_LN_P_HAT]
    assert scores.map is not None
    torch.testing.assert_close(sum(cues.maps.values()), scores.map)
    torch.testing.assert_close(cues.maps[MINUS_LN_P_HAT], -logits.logsumexp(1))
    assert (cues.maps[LN_P_OUT] <= 0).all()
    assert logits.shape == (3, len(CLASSES), SIDE, SIDE)
    assert torch.equal(cues.classes, logits.argmax(1))
    assert cues.names == CLASSES


@pytest.mark.parametrize(("part", "cue"), [("likelihood", MINUS_LN_P_HAT), ("posterior", LN_P_OUT)])
def test_each_part_can_be_the_score_without_another_training(
    part: str, cue: str, trained: DenseHybrid, foreign_scenes: Foreign
):
    images, other = as_float(foreign_scenes[1][:3]), with_score(trained, part=part)
    with torch.no_grad():
        maps, scores = other.cues(images).maps, other.score(images)
        assert list(maps) == [cue]
        assert scores.map is not None
        assert torch.equal(scores.map, maps[cue])
        assert torch.equal(maps[cue], trained.cues(images).maps[cue])


def test_the_image_score_is_the_mean_of_the_hottest_smoothed_pixels(trained: DenseHybrid, foreign_scenes: Foreign):
    images = as_float(foreign_scenes[1][:2])
    with torch.no_grad():
        scores = trained.score(images)
    assert scores.map is not None
    for value, field in zip(scores.image, scores.map.numpy(), strict=True):
        around = np.pad(field, 1, constant_values=np.nan)
        smooth = np.nanmean([around[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)], axis=0)
        hottest = np.sort(smooth.ravel())[-round(0.01 * SIDE * SIDE) :]
        assert value.item() == pytest.approx(hottest.mean(), rel=1e-5, abs=1e-5)


def test_small_maps_enlarged_are_near_the_exact_ones_and_not_the_same(trained: DenseHybrid, foreign_scenes: Foreign):
    images = as_float(foreign_scenes[1][:4])
    with torch.no_grad():
        exact, quick = trained.score(images).map, with_score(trained, exact=False).score(images).map
    assert exact is not None
    assert quick is not None
    assert quick.shape == exact.shape
    assert not torch.allclose(quick, exact, atol=1e-3)
    assert torch.corrcoef(torch.stack([quick.flatten(), exact.flatten()]))[0, 1] > 0.99


def test_gradients_are_those_of_finite_differences(trained: DenseHybrid, foreign_scenes: Foreign):
    check_gradient(trained, as_float(foreign_scenes[1][2:3]))


def test_saving_keeps_every_score_and_needs_no_pretrained_weights(
    trained: DenseHybrid, foreign_scenes: Foreign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = as_float(foreign_scenes[1][:3])
    trained.save(tmp_path)
    monkeypatch.setattr("xadflow.detectors.dense_hybrid.networks.load_network", None)
    again = load_detector(tmp_path)
    assert isinstance(again, DenseHybrid)
    check_same(trained, again, images)
    assert torch.equal(again.class_logits(images), trained.class_logits(images))
    assert again.classes == CLASSES
    assert again.calibration.threshold == trained.calibration.threshold
    assert not any(parameter.requires_grad for parameter in again.net.parameters())


def test_one_class_needs_no_labels_and_drawn_defects_no_negatives(tmp_path: Path):
    data = dataclasses.replace(training_data(), labels=None, val_labels=None, classes=(), outliers=NONE)
    detector = DenseHybrid(**TINY, classes="one", negatives="synthetic")
    report = detector.fit(data, run_in(tmp_path))
    assert detector.anomaly_sources(data) == ("synthetic",)
    assert report.steps == TINY["hybrid"]["min_steps"]  # one class leaves stage 1 nothing to learn
    images = as_float(scenes(3, 5)[0])
    with torch.no_grad():
        cues, logits = detector.cues(images), detector.class_logits(images)
    assert logits.shape[1] == 1
    torch.testing.assert_close(cues.maps[MINUS_LN_P_HAT], -logits[:, 0])
    assert not cues.classes.any()


def test_a_trained_one_finds_what_is_foreign_and_keeps_its_classes(
    small_fit: tuple[DenseHybrid, Path, Mapping[str, float]], foreign_scenes: Foreign
):
    detector, _, figures = small_fit
    normals, foreign, masks = foreign_scenes
    with torch.no_grad():
        cues, clean, odd = (
            detector.cues(as_float(foreign)),
            detector.score(as_float(normals)).image,
            detector.score(as_float(foreign)).image,
        )
    maps = {**cues.maps, "hybrid": sum(cues.maps.values())}
    precision = {name: average_precision(values.flatten(), masks.flatten()) for name, values in maps.items()}  # type: ignore[union-attr]
    assert precision["hybrid"] > 0.6  # at a share of .1; unseen scenes, unseen negatives
    assert precision["hybrid"] > max(precision.values()) - 0.02
    assert (odd > clean).float().mean() > 0.9
    assert (odd > detector.calibration.threshold).float().mean() > 0.7
    assert figures["closed_miou_before"] > 0.8  # seeds 0, 1000: .945 .932; with AVX2 .944
    assert figures["closed_miou"] > figures["closed_miou_before"] - 0.02


def test_sparse_counterfactuals_make_the_foreign_place_normal_with_a_bounded_likelihood(
    trained: DenseHybrid, foreign_scenes: Foreign
):
    images, masks = as_float(foreign_scenes[1][:2]), foreign_scenes[2][:2]
    told = build_explainer("sparse", iterations=10, rung_iterations=5).explain(trained, images)
    changed = as_float(torch.from_numpy(np.stack([one.counterfactuals[0].image for one in told])))
    with torch.no_grad():
        before, after = trained.cues(images).maps, trained.cues(changed).maps
        normal = trained.cues(as_float(training_data().val_normals)).maps[MINUS_LN_P_HAT]
    for one, row, mask in zip(told, range(2), masks, strict=True):
        assert one.counterfactuals[0].score < trained.score(images).image[row]
        assert all(after[name][row][mask].mean() < before[name][row][mask].mean() for name in before)
    assert after[MINUS_LN_P_HAT].min() > 2 * normal.min()  # no likelihood that normals are far from
