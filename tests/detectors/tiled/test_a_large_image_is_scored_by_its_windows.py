import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xadflow.calibration import threshold_at
from xadflow.detectors import Detector, FitRun, TrainingData, as_float, build_detector, load_detector
from xadflow.detectors.base import traits
from xadflow.errors import BadInput, BadSettings, BadWeights, TooFewNormals
from xadflow.models.judges.choice import trunk_in

INNER = {"trunk": "lite0", "least_px": 32}
SHAPE = (96, 160)


def _textures(count: int, seed: int) -> torch.Tensor:
    noise = torch.rand(count, 1, 24, 40, generator=torch.Generator().manual_seed(seed)) * 200
    return F.interpolate(noise, SHAPE, mode="bilinear").byte()


@pytest.fixture(scope="module")
def data() -> TrainingData:
    normals = _textures(32, 0)
    return TrainingData(normals[:12], normals[12:], normals[:0], None, normals[:0])


@pytest.fixture(scope="module")
def tiled(data, tmp_path_factory) -> Detector:
    built = build_detector("tiled", inner="padim", inner_settings=INNER, tile_px=64, overlap_px=16, max_tiles=48)
    built.fit(data, FitRun(tmp_path_factory.mktemp("fit"), 0, 0.05, "cpu"))
    return built


@pytest.fixture
def spoiled() -> torch.Tensor:
    """Two images, the first with a white chip of 8 px inside the last window alone."""
    images = as_float(_textures(2, 7))
    images[0, :, 80:88, 140:148] = 1.0
    return images


def _fresh(detector: Detector) -> Detector:
    return detector.to("cpu")  # forgets what it has seen


def test_the_score_is_the_highest_heat_and_that_is_where_the_chip_is(tiled, spoiled) -> None:
    with torch.no_grad():
        told = tiled.score(spoiled)
        alone = _fresh(tiled).image_score(spoiled)
    assert told.map.shape == (2, *SHAPE)
    assert torch.equal(told.image, told.map.amax(dim=(1, 2)))
    assert torch.equal(alone, told.image)
    row, column = divmod(int(told.map[0].argmax()), SHAPE[1])
    assert max(abs(row - 84), abs(column - 144)) <= 16
    assert told.image[0] > tiled.calibration.threshold


def test_a_window_may_decide_by_the_score_of_its_own(tiled, spoiled, tmp_path) -> None:
    tiled.save(tmp_path)
    card = tmp_path / "detector.json"
    told = json.loads(card.read_text())
    assert told["settings"].pop("decides") == "map"
    card.write_text(json.dumps(told))  # a version of before there was a choice
    by_window = load_detector(tmp_path)
    with torch.no_grad():
        each = tiled.inner.score(tiled.windows.cut(spoiled[0], list(range(len(tiled.windows))))).image
        told = by_window.score(spoiled)
        assert torch.allclose(told.image[0], each.max(), rtol=1e-5)
        assert torch.allclose(by_window.image_score(spoiled), told.image, rtol=1e-4)
        assert torch.equal(told.map, _fresh(tiled).score(spoiled).map)


def test_the_threshold_is_that_of_whole_images(tiled, data) -> None:
    with torch.no_grad():
        scores = _fresh(tiled).image_score(as_float(data.val_normals)).double().numpy()
    assert tiled.calibration.threshold == threshold_at(np.sort(scores), 0.05)
    assert len(tiled.calibration.normal_scores) == len(data.val_normals)
    assert tiled.calibration.defects_used == "synthetic"


def test_what_else_was_scored_changes_no_bit(tiled, spoiled) -> None:
    with torch.no_grad():
        alone = [_fresh(tiled).score(image[None]) for image in spoiled]
        clean = spoiled[:1].clone()
        clean[0, :, 80:88, 140:148] = 0.3
        _fresh(tiled).score(clean)
        after = [tiled.score(image[None]) for image in (spoiled[0], spoiled[1], spoiled[0])]
    for one, other in zip(after, (alone[0], alone[1], alone[0]), strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.map, other.map)


def test_only_windows_that_changed_are_looked_at_again(tiled, spoiled, monkeypatch) -> None:
    looked: list[int] = []
    cut = type(tiled.windows).cut
    monkeypatch.setattr(
        type(tiled.windows), "cut", lambda self, image, some: looked.append(len(set(some))) or cut(self, image, some)
    )
    with torch.no_grad():
        _fresh(tiled).score(spoiled[:1])
        other = spoiled[:1].clone()
        other[0, :, 80:88, 140:148] = 0.5
        tiled.score(other)
        tiled.score(other)
        tiled.score(1 - spoiled[:1])
    count = len(tiled.windows)
    assert looked == [count, 1, 1, count]


@pytest.mark.parametrize("heat", [lambda some: torch.zeros(len(some), 64, 64), lambda some: None])
def test_an_image_that_others_are_compared_with_is_kept_and_what_does_not_fit_goes(tiled, monkeypatch, heat) -> None:
    """Four images by turns, as a batch of an explainer asks for them: none is looked at as a whole a second time."""
    looked: list[int] = []
    monkeypatch.setattr(
        type(tiled),
        "_looked_at",
        lambda self, image, some, *, maps: looked.append(len(some)) or (torch.zeros(len(some)), heat(some)),
    )
    batch = as_float(_textures(4, 11))
    changed = batch.clone()
    changed[:, :, 80:88, 140:148] = 0.5
    with torch.no_grad():
        _fresh(tiled).image_score(batch)
        tiled.image_score(changed)
        count = len(tiled.windows)
        assert looked == [count] * 4 + [1] * 4
        monkeypatch.setattr("xadflow.detectors.tiled.detector._REMEMBERED_BYTES", 1)
        _fresh(tiled).image_score(batch)
        tiled.image_score(changed)
    assert looked[8:] == [count] * 8  # two are kept at least, and by turns they are the wrong ones


def test_the_gradient_is_that_of_the_windows_that_decide(tiled, spoiled) -> None:
    images = spoiled.clone().requires_grad_(True)
    logit = tiled.normal_logit(images)
    logit.sum().backward()
    rows, columns = tiled.windows.places[-1]
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[rows, columns] = True
    assert images.grad[0, 0][inside].abs().sum() > 0
    assert images.grad[0, 0][~inside].abs().sum() == 0
    with torch.no_grad():
        assert torch.allclose(logit, tiled.normal_logit(spoiled), atol=1e-4)


def test_a_map_has_a_gradient_too(tiled, spoiled) -> None:
    images = spoiled[:1].clone().requires_grad_(True)
    told = tiled.score(images)
    told.map[0, 84, 144].backward()
    assert images.grad[0, 0, 80:88, 140:148].abs().sum() > 0
    with torch.no_grad():
        assert torch.allclose(told.map, tiled.score(spoiled[:1]).map, atol=1e-3)


def test_it_is_the_same_after_it_was_saved(tiled, spoiled, tmp_path) -> None:
    tiled.save(tmp_path)
    loaded = load_detector(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.json", "weights.safetensors"]
    with torch.no_grad():
        assert torch.equal(loaded.score(spoiled).map, _fresh(tiled).score(spoiled).map)
    assert loaded.calibration.threshold == tiled.calibration.threshold
    assert trunk_in(traits(loaded).settings) == "lite0"


@pytest.mark.parametrize(("old", "new"), [('"inner": "padim"', '"inner": "fcdd"'), ('"tile_px": 64', '"tile_px": 48')])
def test_a_card_that_does_not_fit_its_inner_detector_is_refused(tiled, tmp_path, old, new) -> None:
    tiled.save(tmp_path)
    card = tmp_path / "detector.json"
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new).replace('"least_px": 32,', "") if "fcdd" in new else text.replace(old, new))
    with pytest.raises((BadWeights, BadSettings)):
        load_detector(tmp_path)


def test_an_image_of_another_size_and_too_few_normals_are_refused(tiled, data, tmp_path) -> None:
    with pytest.raises(BadInput):
        tiled.score(torch.rand(1, 1, 96, 96))
    few = TrainingData(data.normals, data.val_normals[:5], data.known, None, data.calibration_defects)
    with pytest.raises(TooFewNormals):
        build_detector("tiled", inner="padim").fit(few, FitRun(tmp_path, 0, 0.05, "cpu"))


@pytest.mark.parametrize(
    "settings",
    [
        {"tile_px": 64, "overlap_px": 40},
        {"inner": "utad"},
        {"inner": "dense_hybrid"},
        {"tile_px": 8},
        {"inner": "fcdd", "inner_settings": {"trunk": "none"}},
    ],
)
def test_settings_that_cannot_be_are_refused(settings) -> None:
    with pytest.raises(BadSettings):
        build_detector("tiled", **settings)


def test_known_defects_with_masks_are_learned_from_by_the_window_around_them(data) -> None:
    from xadflow.detectors.tiled.windows import around

    for at, expected in (((0, 0), (0, 0)), ((90, 155), (32, 96)), ((48, 80), (16, 48))):
        mask = torch.zeros(SHAPE, dtype=torch.bool)
        mask[at] = True
        assert around(mask, (64, 64)) == expected
