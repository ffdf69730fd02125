"""What every registered detector keeps, whoever wrote it: `pytest tests/contract -k NAME` for one of your own."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contract.conftest import Trial, scores_of
from xadflow.detectors import Detector, as_float, build_detector, load_detector
from xadflow.detectors.base import CARD, WEIGHTS, Staged, detector_class, detector_names, traits
from xadflow.errors import BadInput, BadSettings, BadWeights, TooFewNormals, UnknownName

Trials = Callable[[str], Trial]
Fitted = Callable[[str], tuple[Detector, Path]]

CONTINUED = dict.fromkeys(("ae", "bce", "deep_sad", "dsvdd", "fcdd_conv", "hsc"), 8)
"""The checkpoint from which a training goes on that is killed at step 9 and keeps one every 4 steps."""

every_detector = pytest.mark.parametrize("name", detector_names())


@every_detector
def test_it_has_the_members_of_a_detector_and_says_what_it_is(name: str, trial: Trials, fitted: Fitted):
    detector, saved = fitted(name)
    data, said = trial(name).data, traits(detector)
    assert isinstance(detector, Detector)
    assert detector.input_shape == tuple(data.normals.shape[1:])
    assert detector.to("cpu") is detector
    assert json.loads((saved / CARD).read_text())["method"] == name
    assert not said.stages or isinstance(detector, Staged)
    assert said.anomaly_sources is None or set(said.anomaly_sources(data)) <= {"outliers", "known", "synthetic"}
    assert said.score_is in ("logit", "radius", "unsaid", None)


@every_detector
def test_scores_are_raw_finite_float32_one_an_image_and_a_map_of_its_size(name: str, trial: Trials, fitted: Fitted):
    images = trial(name).unseen
    scores, maps = scores_of(fitted(name)[0], images)
    assert (scores.shape, scores.dtype) == ((len(images),), torch.float32)
    assert scores.isfinite().all()
    assert len(scores.unique()) == len(images), "scores that are clamped or rounded are tied"
    if maps is not None:
        assert (maps.shape, maps.dtype) == ((len(images), *images.shape[2:]), torch.float32)
        assert maps.isfinite().all()


@every_detector
def test_an_image_gets_the_same_scores_again_and_in_any_company(name: str, trial: Trials, fitted: Fitted):
    detector, images = fitted(name)[0], trial(name).unseen
    scores, maps = scores_of(detector, images)
    alone = [scores_of(detector, image[None]) for image in images]
    again, maps_again = scores_of(detector, images)
    assert torch.equal(scores, again)
    torch.testing.assert_close(torch.cat([one for one, _ in alone]), scores, rtol=1e-4, atol=1e-4)
    if maps is not None and maps_again is not None:
        assert torch.equal(maps, maps_again)
        torch.testing.assert_close(torch.cat([one for _, one in alone]), maps, rtol=1e-3, atol=1e-3)  # type: ignore[misc]


@every_detector
def test_scores_rise_along_their_gradient_or_it_says_that_there_is_none(name: str, trial: Trials, fitted: Fitted):
    detector = fitted(name)[0]
    images = as_float(trial(name).unseen[-2:]).requires_grad_()
    before = detector.score(images).image
    if not traits(detector).differentiable:
        assert not before.requires_grad, "`differentiable` is False, and there is a gradient"
        return
    (gradient,) = torch.autograd.grad(before.sum(), images)
    assert (gradient.shape, gradient.dtype) == (images.shape, torch.float32)
    assert gradient.isfinite().all()
    lengths = gradient.flatten(1).norm(dim=1)
    assert (lengths > 0).all()
    with torch.no_grad():
        steps = [gradient / lengths.view(-1, 1, 1, 1) * length for length in (0.003, 0.01, 0.03)]
        rises = torch.stack([detector.score(images + step).image - before for step in steps])
    assert (rises.max(dim=0).values > 0).all()
    (of_logit,) = torch.autograd.grad(detector.normal_logit(images).sum(), images)
    torch.testing.assert_close(of_logit * -detector.calibration.temperature, gradient, rtol=1e-3, atol=1e-6)


@every_detector
def test_logits_are_distances_to_a_threshold_that_held_out_normals_keep(name: str, trial: Trials, fitted: Fitted):
    detector, images = fitted(name)[0], trial(name).unseen
    held_out, calibration = trial(name).data.val_normals, detector.calibration
    scores, _ = scores_of(detector, images)
    with torch.no_grad():
        logits = detector.normal_logit(as_float(images))
    assert calibration.temperature > 0
    torch.testing.assert_close(logits, (calibration.threshold - scores) / calibration.temperature)
    normal, _ = scores_of(detector, held_out)
    np.testing.assert_allclose(calibration.normal_scores, np.sort(normal.double().numpy()), rtol=1e-3, atol=1e-4)
    assert (calibration.normal_scores > calibration.threshold).mean() <= calibration.false_alarm_rate == 0.1


@every_detector
def test_what_is_saved_comes_back_bit_for_bit_without_any_pickle(
    name: str, trial: Trials, fitted: Fitted, tmp_path: Path
):
    detector, saved = fitted(name)
    again = load_detector(saved)
    assert isinstance(again, detector_class(name))
    for one, other in zip(scores_of(detector, trial(name).unseen), scores_of(again, trial(name).unseen), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]
    assert again.calibration.threshold == detector.calibration.threshold
    assert np.array_equal(again.calibration.normal_scores, detector.calibration.normal_scores)
    assert {CARD, WEIGHTS} <= {path.name for path in saved.iterdir()}
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    again.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in saved.iterdir()
    }


@every_detector
@pytest.mark.parametrize("damage", ["a bit", "half", "no weights", "no card", "another's"])
def test_a_folder_that_is_damaged_or_another_method_s_is_refused(
    name: str, damage: str, fitted: Fitted, tmp_path: Path
):
    folder = tmp_path / "saved"
    shutil.copytree(fitted(name)[1], folder)
    card, weights = folder / CARD, folder / WEIGHTS
    raw = weights.read_bytes()
    if damage == "a bit":
        weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "half":
        weights.write_bytes(raw[: len(raw) // 2])
    elif damage == "another's":
        other = next(one for one in itertools.chain(("hsc", "padim"), detector_names()) if one != name)
        card.write_text(json.dumps({**json.loads(card.read_text()), "method": other}))
    else:
        (weights if damage == "no weights" else card).unlink()
    with pytest.raises(BadWeights):
        detector_class(name).load(folder) if damage == "another's" else load_detector(folder)


@every_detector
def test_a_killed_and_resumed_training_equals_an_uninterrupted_one(
    name: str, trial: Trials, fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("xadflow.detectors.one_class.detector.CHECKPOINT_EVERY", 4)
    tried = trial(name)
    try:
        tried.fit(tmp_path / "run", kill_at=9)
    except KeyboardInterrupt:
        pass  # a method that calls no progress cannot be killed by it, and then is trained a second time
    resumed, step = tried.fit(tmp_path / "run")
    assert step == CONTINUED.get(name, step)
    resumed.save(tmp_path / "resumed")
    for path in fitted(name)[1].iterdir():
        assert path.read_bytes() == (tmp_path / "resumed" / path.name).read_bytes()


@every_detector
def test_a_setting_that_it_does_not_know_is_named(name: str, trial: Trials):
    with pytest.raises(BadSettings, match="no_such_setting"):
        build_detector(name, **trial(name).settings, no_such_setting=1)


@every_detector
def test_before_it_is_fitted_it_says_so(name: str, trial: Trials, tmp_path: Path):
    detector = trial(name).new()
    for asked in (
        lambda: detector.score(as_float(trial(name).unseen)),
        lambda: detector.save(tmp_path),
        lambda: detector.calibration,
    ):
        with pytest.raises(BadWeights, match="not fitted"):
            asked()


@every_detector
def test_images_that_it_was_not_fitted_on_are_refused(name: str, trial: Trials, fitted: Fitted):
    detector, images = fitted(name)[0], as_float(trial(name).unseen)
    channels = 3 if images.shape[1] == 1 else 1
    for wrong in (images[:, :1].repeat(1, channels, 1, 1), images[..., :-1], images[0], trial(name).unseen):
        with pytest.raises(BadInput):
            detector.score(wrong)


@every_detector
@pytest.mark.parametrize("case", ["floats", "another size", "one normal", "few held out"])
def test_data_that_cannot_be_learned_from_is_refused_before_any_work(
    name: str, case: str, trial: Trials, tmp_path: Path
):
    good = trial(name).data
    data, error = {
        "floats": (dataclasses.replace(good, normals=as_float(good.normals)), BadInput),
        "another size": (dataclasses.replace(good, known=good.known[..., :-2], known_masks=None), BadInput),
        "one normal": (dataclasses.replace(good, normals=good.normals[:1]), BadInput),
        "few held out": (dataclasses.replace(good, val_normals=good.val_normals[:8]), TooFewNormals),
    }[case]
    with pytest.raises(error):
        dataclasses.replace(trial(name), data=data).fit(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_not_registered_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="use 'hsc'"):
        build_detector("hcs")
