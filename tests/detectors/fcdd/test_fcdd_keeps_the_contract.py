"""What is FCDD's own beside the contract: its score and map, gradients, calibration, trunk, heads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from xadflow.detectors import FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.fcdd.detector import FCDD
from xadflow.errors import BadSettings, BadWeights

SIDE = 64
SMALL = {"stages": (2,), "min_steps": 12, "epochs": 1.0, "batch_normals": 16, "batch_synthetic": 16}


@pytest.fixture(scope="module")
def images(small_data: TrainingData) -> torch.Tensor:
    return as_float(torch.cat([small_data.val_normals[:14], small_data.known]))


def test_score_is_the_pooled_low_resolution_map(fitted: FCDD, images: torch.Tensor):
    with torch.no_grad():
        low = fitted.fitted.head(fitted.fitted.trunk.trunk_features(images))
        expected = low.sort(dim=1, descending=True).values[:, :6].mean(dim=1)  # a tenth of 64 cells
        scores = fitted.score(images)
    torch.testing.assert_close(scores.image, expected, rtol=1e-6, atol=0)
    assert scores.map is not None
    assert scores.map.shape == (20, SIDE, SIDE)


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


def test_trunk_weights_are_named_by_hash_and_not_stored(fitted: FCDD, tmp_path: Path):
    fitted.save(tmp_path)
    card = json.loads((tmp_path / "detector.json").read_text())
    assert len(card["trunk_sha256"]) == 64
    assert (tmp_path / "weights.safetensors").stat().st_size < 1_000_000  # 64 locations x 820 numbers, and little more


@pytest.mark.parametrize("change", ["trunk", "format"])
def test_a_saved_detector_of_another_trunk_or_format_is_refused(fitted: FCDD, tmp_path: Path, change: str):
    fitted.save(tmp_path)
    card = tmp_path / "detector.json"
    content = json.loads(card.read_text())
    if change == "trunk":
        card.write_text(json.dumps({**content, "trunk_sha256": "0" * 64}))
    else:
        card.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(BadWeights, match="xadflow retrain"):
        FCDD.load(tmp_path)


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


def test_data_without_anything_anomalous_are_refused(small_data: TrainingData, tmp_path: Path):
    run = FitRun(tmp_path, seed=0, false_alarm_rate=0.1, device="cpu")
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
