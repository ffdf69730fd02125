"""What does not fit is refused before any work, with what was wrong, what was seen and what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.detectors.dense_hybrid.conftest import NONE, TINY, run_in, training_data
from xadflow.detectors import as_float
from xadflow.detectors.base import VOID
from xadflow.detectors.dense_hybrid.detector import DenseHybrid
from xadflow.detectors.dense_hybrid.networks import build_net
from xadflow.errors import BadInput, BadSettings, BadWeights, UnknownName, XadflowError


def refused(
    kind: type[XadflowError], match: str, tmp_path: Path, settings: dict[str, Any] = TINY, **changes: Any
) -> None:
    with pytest.raises(kind, match=match):
        DenseHybrid(**settings).fit(dataclasses.replace(training_data(), **changes), run_in(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["labels", "val_labels"])
def test_labels_that_are_missing_or_wrong_are_named(name: str, tmp_path: Path):
    labels = getattr(training_data(), name)
    refused(BadInput, rf"has no {name}.*set `classes: one`", tmp_path, **{name: None})
    refused(BadInput, rf"{name} must be uint8 \[N,H,W\].*int64", tmp_path, **{name: labels.long()})
    refused(BadInput, rf"{name} must be uint8 \[N,H,W\]", tmp_path, **{name: labels[:, ::2]})
    odd = labels.clone()
    odd[0, 9, 9] = 17
    refused(BadInput, rf"{name} have ids that are no class; there are 3 classes.*got \[17\]", tmp_path, **{name: odd})
    refused(BadInput, rf"every pixel of {name} is void", tmp_path, **{name: torch.full_like(labels, VOID)})


def test_a_data_set_without_class_names_is_told_apart_from_one_without_labels(tmp_path: Path):
    refused(BadInput, r"0 classes.*set `classes: one`", tmp_path, classes=())


def test_no_negatives_name_the_setting_that_brings_some(tmp_path: Path):
    said = r"no negatives to paste.*under `outliers` of this one.*`negatives: synthetic`"
    refused(BadSettings, said, tmp_path, outliers=NONE)


def test_a_crop_above_the_image_and_an_image_below_the_stride_are_refused(tmp_path: Path):
    crop = {**TINY, "hybrid": {**TINY["hybrid"], "crop_px": 65}}
    refused(BadInput, r"hybrid.crop_px is larger than the images; got '65 px of 64 px'", tmp_path, crop)
    given = training_data()
    small = {
        name: getattr(given, name)[..., :8, :8]
        for name in ("normals", "val_normals", "known", "calibration_defects", "outliers")
    }
    labels = {name: getattr(given, name)[:, :8, :8] % 2 for name in ("labels", "val_labels")}
    refused(BadInput, r"sides of at least 16 px.*raise size_px", tmp_path, **small, **labels)
    tiny_crop = {**TINY, "closed": {**TINY["closed"], "crop_px": 8}}
    refused(BadInput, r"sides of at least 16 px", tmp_path, tiny_crop)


def test_some_scenes_all_void_and_some_classes_absent_train_without_nan(tmp_path: Path):
    labels = training_data().labels
    assert labels is not None
    sparse = torch.where(torch.arange(len(labels)).view(-1, 1, 1) % 4 == 0, labels % 2, VOID).to(torch.uint8)
    report = DenseHybrid(**TINY).fit(dataclasses.replace(training_data(), labels=sparse), run_in(tmp_path))
    assert all(value == value and abs(value) < 1e6 for _, _, value in report.history)
    assert 0.0 <= report.figures["closed_miou"] <= 1.0


def test_names_and_settings_that_do_not_exist_get_the_nearest(tmp_path: Path):
    refused(UnknownName, r"no net of scenes.*use 'mobile'", tmp_path, {**TINY, "net": "mobil"})
    with pytest.raises(UnknownName, match=r"one of \['closed', 'hybrid'\]"):
        DenseHybrid(**TINY).fit_stage("open", training_data(), run_in(tmp_path))
    for settings, match in [
        ({"hybrid": {"betta": 1.0}}, "did you mean 'hybrid.beta'"),
        ({"hybrid": {"margin_in": -2.0}}, "margin_in must lie above margin_out"),
        ({"paste": {"control": 1.0}}, "control 1 leaves no negative"),
        ({"paste": {"zoom": (2.0, 1.0)}}, "smallest and a largest factor"),
        ({"closed": {"jitter": (2.0, 1.0)}}, "smallest and a largest factor"),
        ({"score": {"smooth_px": 4}}, "smooth_px must be odd"),
        ({"score": {"part": "max-softmax"}}, "hybrid"),
        ({"configuration": "published", "paste": 3}, "block of settings"),
    ]:
        with pytest.raises(BadSettings, match=match):
            DenseHybrid(**settings)


def test_scoring_refuses_other_shapes_and_an_unfitted_detector(trained: DenseHybrid):
    with pytest.raises(BadInput, match=r"scores float images \[B,C,H,W\] of shape \(1, 64, 64\)"):
        trained.score(torch.zeros(2, 3, 64, 64))
    with pytest.raises(BadInput, match="float images"):
        trained.score(training_data().normals[:2])
    for ask in (DenseHybrid().score, DenseHybrid().cues, DenseHybrid().class_logits):
        with pytest.raises(BadWeights, match="not fitted"):
            ask(as_float(training_data().normals[:1]))
    with pytest.raises(BadInput, match="one or three channels"):
        build_net("mobile", 3, 4, pretrained=False)
