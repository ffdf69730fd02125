"""What is PaDiM's own beside the contract: Mahalanobis distances as anybody computes them, on either trunk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xadflow.detectors import FitRun, TrainingData, as_float, build_detector
from xadflow.detectors.padim import PaDiM
from xadflow.errors import BadSettings, BadWeights
from xadflow.networks.pretrained import Trunk

SIDE = 64
SMALL = {"stages": (2,), "least_px": 64}


@pytest.fixture(scope="module", params=["mobilenet_v2", "lite0"])
def padim(request, small_data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> PaDiM:
    """One that was fitted on the CPU, on either trunk."""
    detector = PaDiM(**SMALL, trunk=request.param)
    detector.fit(small_data, FitRun(tmp_path_factory.mktemp("fit"), seed=0, false_alarm_rate=0.1, device="cpu"))
    return detector


@pytest.fixture(scope="module")
def images(small_data: TrainingData) -> torch.Tensor:
    return as_float(torch.cat([small_data.val_normals[:14], small_data.known]))


def by_hand(detector: PaDiM, normals: torch.Tensor, images: torch.Tensor) -> np.ndarray:
    """Mahalanobis distance of each image and location [N,P] in float64, from the definition: no factor, no
    whitening.
    """
    s = detector.settings
    trunk = Trunk(s.trunk, s.stages)
    with torch.no_grad():
        learned, asked = (
            trunk.trunk_features(part).double().flatten(2).numpy() for part in (as_float(normals), images)
        )
    centre, spread = learned.mean(axis=(0, 2))[:, None], learned.std(axis=(0, 2))[:, None]
    learned, asked = (learned - centre) / spread, (asked - centre) / spread
    images_seen, channels, places = learned.shape
    own = [np.cov(learned[:, :, place], rowvar=False) for place in range(places)]
    pooled, share = np.mean(own, axis=0), channels / (channels + images_seen)
    distances = np.empty((len(asked), places))
    for place in range(places):
        covariance = (1 - share) * own[place] + share * pooled + s.floor * np.eye(channels)
        apart = asked[:, :, place] - learned[:, :, place].mean(axis=0)
        distances[:, place] = np.sqrt(np.einsum("nc,cd,nd->n", apart, np.linalg.inv(covariance), apart))
    return distances


def test_distances_are_those_of_an_independent_computation(
    padim: PaDiM, small_data: TrainingData, images: torch.Tensor
):
    expected = by_hand(padim, small_data.normals, images)
    with torch.no_grad():
        scores = padim.score(images)
        distances = padim.fitted.distances(images).flatten(1).double().numpy()
    np.testing.assert_allclose(distances, expected, rtol=0.02)  # features of the normals are held in half precision
    hottest = np.sort(expected, axis=1)[:, -6:].mean(axis=1)  # a tenth of 64 locations
    np.testing.assert_allclose(scores.image.numpy(), hottest, rtol=0.02)


def test_the_map_is_hottest_where_the_defect_is(padim: PaDiM, small_data: TrainingData):
    assert small_data.known_masks is not None
    with torch.no_grad():
        maps = padim.score(as_float(small_data.known)).map
    assert maps is not None
    assert maps.shape == (6, SIDE, SIDE)
    inside = [
        float(heat[mask].mean() / heat[~mask].mean()) for heat, mask in zip(maps, small_data.known_masks, strict=True)
    ]
    assert np.mean(inside) > 1.2


def test_defects_score_higher_than_held_out_normals(padim: PaDiM, small_data: TrainingData):
    with torch.no_grad():
        defects, normals = (padim.score(as_float(part)).image for part in (small_data.known, small_data.val_normals))
    assert (defects[:, None] > normals[None, :]).float().mean() > 0.8
    assert (defects > padim.calibration.threshold).float().mean() >= 0.5
    assert (normals > padim.calibration.threshold).float().mean() <= 0.1


def test_gradient_flows_to_the_images_and_not_to_the_weights(padim: PaDiM, images: torch.Tensor):
    inputs = images[:3].clone().requires_grad_()
    padim.normal_logit(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.isfinite().all()
    assert (inputs.grad.flatten(1).abs().sum(dim=1) > 0).all()
    assert not any(parameter.requires_grad for parameter in padim.fitted.parameters())


def test_the_gradient_says_how_the_score_changes(padim: PaDiM, images: torch.Tensor):
    x = images[-1:].clone().requires_grad_()
    padim.score(x).image.sum().backward()
    assert x.grad is not None
    step = 2e-4 * x.grad / x.grad.norm()
    with torch.no_grad():
        measured = float((padim.score(x + step).image - padim.score(x - step).image).sum())
    assert measured == pytest.approx(2 * float((x.grad * step).sum()), rel=0.1)


def test_constant_images_are_scored(padim: PaDiM):
    flat = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, SIDE, SIDE).clone().requires_grad_()
    scores = padim.score(flat).image
    scores.sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    assert scores.isfinite().all()
    assert (scores[[0, 2]] > padim.calibration.threshold).all()  # no wall is black or white


@pytest.mark.parametrize("change", ["trunk", "stages"])
def test_a_saved_detector_of_another_trunk_is_refused(padim: PaDiM, tmp_path: Path, change: str):
    padim.save(tmp_path)
    card = tmp_path / "detector.json"
    content = json.loads(card.read_text())
    if change == "trunk":
        card.write_text(json.dumps({**content, "trunk_sha256": "0" * 64}))
    else:
        card.write_text(json.dumps({**content, "settings": {**content["settings"], "stages": [3]}}))
    with pytest.raises(BadWeights, match="xadflow retrain"):
        PaDiM.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stagse": (3,)}, "did you mean 'stages'"),
        ({"stages": (4, 5)}, "stride of at most 16 are 0 to 4"),
        ({"stages": ()}, "setting stages of detector padim"),
        ({"trunk": "resnet"}, "setting trunk"),
        ({"least_px": 8}, "setting least_px"),
    ],
)
def test_wrong_settings_are_refused_with_the_nearest_right_one(settings: dict[str, object], message: str):
    with pytest.raises(BadSettings, match=message):
        build_detector("padim", **settings)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 28, 40), (1, 96, 64)])
def test_small_and_rectangular_images_are_enlarged_and_scored_at_their_own_size(
    small_data: TrainingData, tmp_path: Path, shape: tuple[int, int, int]
):
    channels, height, width = shape
    whole = torch.cat([small_data.normals, small_data.normals], dim=2)
    normals = whole[:12, :, :height, :width].repeat(1, channels, 1, 1)
    data = TrainingData(normals, normals[:10], normals[:0], None, normals[:0])
    detector = PaDiM(stages=(3,))
    detector.fit(data, FitRun(tmp_path, seed=0, false_alarm_rate=0.1, device="cpu"))
    with torch.no_grad():
        scores = detector.score(as_float(normals))
    assert min(detector.fitted.size) == 96
    assert scores.map is not None
    assert scores.map.shape == (12, height, width)
    assert scores.image.isfinite().all()


def test_a_larger_set_is_sampled_and_the_file_stays_small(small_data: TrainingData, tmp_path: Path):
    detector = PaDiM(stages=(3,), max_normals=20)
    report = detector.fit(small_data, FitRun(tmp_path, seed=0, false_alarm_rate=0.1, device="cpu"))
    assert report.figures["normals"] == 20
    detector.save(tmp_path)
    places, channels = 36, 64
    numbers = places * channels * (channels + 1) // 2 + places * channels + 2 * channels
    assert (tmp_path / "weights.safetensors").stat().st_size < 4 * numbers + 4000
