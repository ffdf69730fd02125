"""FCDD as a Detector: raw, finite, untied, differentiable scores that survive saving."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from xadflow.detectors import Detector, FitRun, TrainingData, as_float, build_detector, load_detector
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.errors import BadInput, BadSettings, BadWeights, TooFewNormals

SIDE = 64
SMALL = {"stages": (2,), "min_steps": 12, "epochs": 1.0, "batch_normals": 16, "batch_synthetic": 16}


@pytest.fixture(scope="module")
def images(small_data: TrainingData) -> torch.Tensor:
    return as_float(torch.cat([small_data.val_normals[:14], small_data.known]))


def test_it_is_a_detector(fitted: FCDD):
    assert isinstance(fitted, Detector)
    assert fitted.input_shape == (1, SIDE, SIDE)


def test_score_is_the_pooled_low_resolution_map(fitted: FCDD, images: torch.Tensor):
    with torch.no_grad():
        low = fitted.fitted.head(fitted.fitted.trunk.trunk_features(images))
        expected = low.sort(dim=1, descending=True).values[:, :6].mean(dim=1)  # a tenth of 64 cells
        scores = fitted.score(images)
    torch.testing.assert_close(scores.image, expected, rtol=1e-6, atol=0)
    assert scores.map is not None
    assert scores.map.shape == (20, SIDE, SIDE)


def test_scores_are_finite_raw_and_untied(fitted: FCDD, images: torch.Tensor):
    with torch.no_grad():
        scores = fitted.score(images)
    assert scores.image.isfinite().all()
    assert scores.map is not None
    assert scores.map.isfinite().all()
    assert len(scores.image.unique()) == len(images)


@pytest.mark.parametrize("size", [1, 3])
def test_scores_do_not_depend_on_the_batch(fitted: FCDD, images: torch.Tensor, size: int):
    with torch.no_grad():
        whole = fitted.score(images)
        parts = [fitted.score(batch) for batch in images.split(size)]
    # Matrix products of other shapes add in another order: 1e-5 relative, of the batch's typical value.
    torch.testing.assert_close(torch.cat([part.image for part in parts]), whole.image, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.cat([part.map for part in parts]), whole.map, rtol=1e-4, atol=1e-6)


def test_gradient_flows_to_the_images_and_not_to_the_weights(fitted: FCDD, images: torch.Tensor):
    inputs = images[:3].clone().requires_grad_()
    fitted.normal_logit(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()
    assert (inputs.grad.flatten(1).abs().sum(dim=1) > 0).all()
    assert not any(parameter.requires_grad for parameter in fitted.fitted.parameters())


def test_gradient_of_one_image_does_not_see_the_others(fitted: FCDD, images: torch.Tensor):
    together, alone = images[:3].clone().requires_grad_(), images[1:2].clone().requires_grad_()
    fitted.score(together).image[1].backward()
    fitted.score(alone).image.sum().backward()
    assert together.grad is not None
    assert torch.equal(together.grad[0], torch.zeros_like(together.grad[0]))
    torch.testing.assert_close(together.grad[1:2], alone.grad, rtol=1e-3, atol=1e-6)


def test_normal_logit_is_the_distance_to_the_threshold_over_the_temperature(fitted: FCDD, images: torch.Tensor):
    with torch.no_grad():
        logit, score = fitted.normal_logit(images), fitted.score(images).image
    expected = (fitted.calibration.threshold - score.double()) / fitted.calibration.temperature
    torch.testing.assert_close(logit.double(), expected, rtol=1e-4, atol=1e-5)
    assert ((logit < 0) == (score > fitted.calibration.threshold)).all()


def test_calibration_uses_validation_normals_and_held_out_synthetic_defects(fitted: FCDD, small_data: TrainingData):
    with torch.no_grad():
        own = fitted.score(as_float(small_data.val_normals)).image.double()
    held_out = torch.from_numpy(fitted.calibration.normal_scores)
    torch.testing.assert_close(held_out, own.sort().values, rtol=1e-5, atol=0)
    assert fitted.calibration.defects_used == "synthetic"
    assert (own > fitted.calibration.threshold).double().mean() <= 0.1


def test_constant_images_are_scored(fitted: FCDD):
    flat = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, SIDE, SIDE)
    inputs = flat.clone().requires_grad_()
    scores = fitted.score(inputs).image
    scores.sum().backward()
    assert scores.isfinite().all()
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()
    assert (scores > fitted.calibration.threshold).all()  # no wall is flat


def test_a_saved_detector_scores_equally_and_saves_to_equal_bytes(fitted: FCDD, images: torch.Tensor, tmp_path: Path):
    fitted.save(tmp_path / "one")
    loaded = load_detector(tmp_path / "one")
    loaded.save(tmp_path / "two")
    with torch.no_grad():
        before, after = fitted.score(images), loaded.score(images)
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.map, after.map)  # type: ignore[arg-type]
    assert loaded.input_shape == fitted.input_shape
    assert vars(loaded.calibration).keys() == vars(fitted.calibration).keys()
    assert loaded.calibration.threshold == fitted.calibration.threshold
    for name in ("detector.json", "weights.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["detector.json", "weights.safetensors"]


def test_trunk_weights_are_named_by_hash_and_not_stored(fitted: FCDD, tmp_path: Path):
    fitted.save(tmp_path)
    card = json.loads((tmp_path / "detector.json").read_text())
    assert len(card["trunk_sha256"]) == 64
    assert (tmp_path / "weights.safetensors").stat().st_size < 1_000_000  # 64 locations x 820 numbers, and little more


@pytest.mark.parametrize("change", ["trunk", "weights", "truncated", "card", "method"])
def test_a_damaged_saved_detector_is_refused(fitted: FCDD, tmp_path: Path, change: str):
    fitted.save(tmp_path)
    card, weights = tmp_path / "detector.json", tmp_path / "weights.safetensors"
    content = json.loads(card.read_text())
    if change == "trunk":
        card.write_text(json.dumps({**content, "trunk_sha256": "0" * 64}))
    elif change == "method":
        card.write_text(json.dumps({**content, "format": 99}))
    elif change == "card":
        card.write_text("{")
    else:
        raw = weights.read_bytes()
        weights.write_bytes(raw[: len(raw) // 2] if change == "truncated" else raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(BadWeights, match="xadflow retrain"):
        FCDD.load(tmp_path)


def test_images_of_another_shape_or_type_are_refused(fitted: FCDD):
    for wrong in (torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 1, SIDE, 32), torch.zeros(1, SIDE, SIDE)):
        with pytest.raises(BadInput, match="this detector scores"):
            fitted.score(wrong)
    with pytest.raises(BadInput, match="as_float"):
        fitted.score(torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8))


def test_an_unfitted_detector_says_so(tmp_path: Path):
    detector = build_detector("fcdd")
    with pytest.raises(BadWeights, match="not fitted"):
        detector.score(torch.zeros(1, 1, SIDE, SIDE))
    with pytest.raises(BadWeights, match="not fitted"):
        detector.save(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ephocs": 3}, "did you mean 'epochs'"),
        ({"head": "vector"}, "setting head of detector fcdd"),
        ({"pool_share": 0.0}, "setting pool_share"),
        ({"stages": (9,)}, "stages 0 to 6"),
        ({"stages": ()}, "stages 0 to 6"),
    ],
)
def test_wrong_settings_are_refused_with_the_nearest_right_one(settings: dict[str, object], message: str):
    with pytest.raises(BadSettings, match=message):
        build_detector("fcdd", **settings)


def test_data_that_cannot_be_learned_from_is_refused_before_any_work(small_data: TrainingData, tmp_path: Path):
    run = FitRun(tmp_path, seed=0, false_alarm_rate=0.1, device="cpu")
    few = dataclasses.replace(small_data, val_normals=small_data.val_normals[:5])
    with pytest.raises(TooFewNormals):
        FCDD(**SMALL).fit(few, run)
    as_floats = dataclasses.replace(small_data, normals=as_float(small_data.normals))
    with pytest.raises(BadInput, match="normals must be uint8"):
        FCDD(**SMALL).fit(as_floats, run)
    other = dataclasses.replace(small_data, known=small_data.known[..., :32], known_masks=None)
    with pytest.raises(BadInput, match="known must be uint8"):
        FCDD(**SMALL).fit(other, run)
    none = dataclasses.replace(small_data, known=small_data.known[:0], known_masks=None)
    with pytest.raises(BadSettings, match="nothing anomalous"):
        FCDD(**SMALL, synthetic_rounds=0).fit(none, run)


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "scalar", "whitening": "channel"},
        {"head": "scalar", "hidden": 0, "level": "pixel"},
        {"level": "pixel", "defect_area": "region", "upsampling": "none"},
        {"trunk": "mobilenet_v2", "synthesiser": "confetti", "flips": "none"},
        {"synthetic_rounds": 0, "flips": "known"},
    ],
)
def test_every_kind_of_head_and_level_fits_colour_and_rectangles(
    settings: dict[str, object], small_data: TrainingData, tmp_path: Path
):
    normals = small_data.normals[:12, :, :, :48].repeat(1, 3, 1, 1)
    data = TrainingData(normals, normals[:10], normals[:2] // 2, None, normals[:10] // 2)
    detector = FCDD(**{**SMALL, "min_steps": 3, **settings})
    report = detector.fit(data, FitRun(tmp_path, seed=0, false_alarm_rate=0.1, device="cpu"))
    with torch.no_grad():
        scores = detector.score(as_float(normals))
    assert scores.map is not None
    assert scores.map.shape == (12, SIDE, 48)
    assert scores.image.isfinite().all()
    assert detector.calibration.defects_used == "known"
    assert report.steps == 3
