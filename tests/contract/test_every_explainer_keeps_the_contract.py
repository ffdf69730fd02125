"""What every registered explainer keeps, whoever wrote it: `pytest tests/contract -k NAME` for one of your own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.contract.conftest import EXPLAINED, EXPLAINERS, Asked, scores_of
from xadflow.detectors import Detector, as_float
from xadflow.detectors.base import detector_names
from xadflow.errors import BadInput, BadSettings, BadWeights, NoDonors, UnknownName
from xadflow.evidence.rows import explanation_row
from xadflow.explainers import Explainer, build_explainer, load_explainer
from xadflow.explainers.base import Explanation, explainer_names, takes_donors, why_unfit
from xadflow.explainers.trained import CARD, needs_training

Askeds = Callable[[str], Asked]
Fitted = Callable[[str], tuple[Detector, Path]]

every_explainer = pytest.mark.parametrize("name", explainer_names())


def told(asked: Asked) -> list[Explanation]:
    return asked.explainer.explain(asked.detector, as_float(asked.images))


def pictures(one: Explanation) -> list[np.ndarray[Any, Any]]:
    """Every array of an explanation."""
    heat = [] if one.heatmap is None else [one.heatmap]
    return [*heat, *(each.image for each in one.counterfactuals), *(each.image for each in one.images)]


@every_explainer
def test_it_has_the_members_of_an_explainer_and_one_answer_an_image(name: str, asked: Askeds):
    explainer = asked(name).explainer
    assert isinstance(explainer, Explainer)
    assert explainer.name == name
    assert explainer.version
    assert isinstance(explainer.seed, int)
    answers = told(asked(name))
    assert len(answers) == len(asked(name).images)
    assert all(pictures(one) for one in answers), "an explanation that shows nothing"
    assert explainer.explain(asked(name).detector, as_float(asked(name).images[:0])) == []


@every_explainer
def test_pictures_are_8_bit_heatmaps_raw_and_figures_numbers(name: str, asked: Askeds):
    shape = tuple(asked(name).images.shape[1:])
    for one in told(asked(name)):
        if one.heatmap is not None:
            assert (one.heatmap.shape, one.heatmap.dtype) == (shape[1:], np.float32)
            assert np.isfinite(one.heatmap).all()
        assert all((each.image.shape, each.image.dtype) == (shape, np.uint8) for each in one.counterfactuals)
        for shown in one.images:
            assert shown.image.dtype == np.uint8
            assert shown.minimum <= shown.maximum
        assert len({shown.name for shown in one.images}) == len(one.images)
        assert all(isinstance(value, float) and not math.isnan(value) for value in one.metrics.values()), one.metrics


@every_explainer
def test_figures_of_counterfactuals_are_those_of_the_stored_image(name: str, asked: Askeds):
    detector = asked(name).detector
    for original, one in zip(asked(name).images, told(asked(name)), strict=True):
        for each in one.counterfactuals:
            (score,) = scores_of(detector, torch.from_numpy(each.image)[None])[0].double().numpy()
            assert each.score == pytest.approx(score, rel=1e-4, abs=1e-4)
            assert each.is_normal == (each.score <= detector.calibration.threshold)
            assert each.p_value == detector.calibration.p_value(np.array([each.score]))[0]
            change = (each.image.astype(float) - original.numpy().astype(float)) / 255
            assert each.l1 == pytest.approx(np.abs(change).sum())
            assert each.l2 == pytest.approx(np.sqrt(np.square(change).sum()))
            assert each.changed_fraction == pytest.approx((change != 0).any(axis=0).mean())


@every_explainer
def test_the_same_question_gets_the_same_answer(name: str, asked: Askeds):
    for one, again in zip(told(asked(name)), told(asked(name)), strict=True):
        assert dict(one.metrics) == dict(again.metrics)
        assert all(map(np.array_equal, pictures(one), pictures(again)))
        assert [dataclasses.replace(each, image=None) for each in one.counterfactuals] == [
            dataclasses.replace(each, image=None) for each in again.counterfactuals
        ]


@every_explainer
def test_asking_leaves_no_trace_on_detector_or_images(name: str, asked: Askeds):
    images = as_float(asked(name).images)
    before = scores_of(asked(name).detector, asked(name).images)[0]
    asked(name).explainer.explain(asked(name).detector, images)
    assert torch.equal(images, as_float(asked(name).images))
    assert torch.equal(before, scores_of(asked(name).detector, asked(name).images)[0])


@every_explainer
def test_a_row_holds_what_it_says_and_names_its_version(name: str, asked: Askeds):
    explainer, one = asked(name).explainer, told(asked(name))[0]
    row = explanation_row(
        {"score": 1.0},
        explainer=explainer.name,
        explainer_version=explainer.version,
        seed=explainer.seed,
        original=asked(name).images[0].numpy(),
        explanation=one,
        lineage="{}",
    )
    assert (row["explainer"], row["explainer_version"]) == (name, explainer.version)
    stored = [*row["counterfactuals"], *row["images"]]
    assert all(each["image"]["bytes"].startswith(b"\x89PNG") for each in stored)
    assert (row["heatmap"] is None) == (one.heatmap is None)


@every_explainer
def test_its_version_follows_its_settings(name: str, pytestconfig: pytest.Config):
    given = EXPLAINERS.get(name) or pytestconfig.getoption("--settings", None) or {}
    assert build_explainer(name, **given).version == build_explainer(name, **given).version
    if given:
        assert build_explainer(name, **given).version != build_explainer(name).version
    with pytest.raises(BadSettings, match="no_such_setting"):
        build_explainer(name, **given, no_such_setting=1)


@every_explainer
def test_images_that_are_not_8_bit_or_not_the_detectors_are_refused(name: str, asked: Askeds):
    images = as_float(asked(name).images)
    channels = 3 if images.shape[1] == 1 else 1
    for wrong in (images + 0.3 / 255, images[..., :-1], images[:, :1].repeat(1, channels, 1, 1), asked(name).images):
        with pytest.raises(BadInput):
            asked(name).explainer.explain(asked(name).detector, wrong)


@every_explainer
def test_it_says_which_detectors_it_has_nothing_to_say_of(name: str, asked: Askeds, fitted: Fitted):
    answers = {method: why_unfit(name, method) for method in detector_names()}
    for method, answer in answers.items():
        assert answer is None or (answer.startswith("It needs a detector with") and method in answer)
    for method in (one for one in EXPLAINED if answers[one] is not None):
        with pytest.raises(BadInput):
            asked(name).explainer.explain(fitted(method)[0], as_float(asked(name).images))


@pytest.mark.parametrize("name", [one for one in explainer_names() if takes_donors(one)])
def test_without_the_donors_that_it_takes_it_says_so(name: str, asked: Askeds):
    with pytest.raises(NoDonors):
        build_explainer(name).explain(asked(name).detector, as_float(asked(name).images))


trained_explainer = pytest.mark.parametrize("name", [one for one in explainer_names() if needs_training(one)])


@trained_explainer
def test_what_was_trained_comes_back_bit_for_bit_without_any_pickle(name: str, asked: Askeds, tmp_path: Path):
    explainer: Any = asked(name).explainer
    explainer.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = load_explainer(tmp_path)
    assert again.version == explainer.version
    assert again.explained == explainer.explained
    answers = told(dataclasses.replace(asked(name), explainer=again))
    for one, other in zip(told(asked(name)), answers, strict=True):
        assert all(map(np.array_equal, pictures(one), pictures(other)))


@trained_explainer
def test_before_its_training_or_from_a_damaged_folder_it_says_so(name: str, asked: Askeds, tmp_path: Path):
    with pytest.raises(BadWeights):
        build_explainer(name).explain(asked(name).detector, as_float(asked(name).images))
    explainer: Any = asked(name).explainer
    explainer.save(tmp_path / "good")
    names = [path.name for path in (tmp_path / "good").iterdir()]
    for file, damage in product(names, ("gone", "half")):
        folder = tmp_path / f"{file} {damage}"
        explainer.save(folder)
        raw = (folder / file).read_bytes()
        (folder / file).unlink() if damage == "gone" else (folder / file).write_bytes(raw[: len(raw) // 2])
        with pytest.raises(BadWeights):
            load_explainer(folder)
    assert CARD in names


def test_a_name_that_is_not_registered_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="use 'heatmap'"):
        build_explainer("heatmpa")
