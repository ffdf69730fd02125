from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.checkout import PROJECT
from xadflow.detectors import build_detector
from xadflow.detectors.base import TrainingData
from xadflow.errors import BadManifest, WrongUse
from xadflow.models.tags import EXPLAINS_VERSION, FILES
from xadflow.models.versions import ModelRef
from xadflow.project import Project
from xadflow.settings import Home, load_settings
from xadflow.work.week import explainer_order
from xadflow.work.week import order as ordering
from xadflow.work.week.explainer_training import training_anomalies

PARAMS = PROJECT / "params.yaml"


def flat(count: int, value: int) -> torch.Tensor:
    """uint8 [N,1,32,32] of one value, with a gradient so that a drawn defect shows."""
    return (torch.arange(32, dtype=torch.uint8)[None, None, None].expand(count, 1, 32, 32) + value).contiguous()


DATA = TrainingData(
    normals=flat(40, 10),
    val_normals=flat(9, 200),
    known=flat(3, 60),
    known_masks=None,
    calibration_defects=flat(5, 210),
    outliers=flat(20, 100),
)


def learning_from(*sources: str) -> SimpleNamespace:
    return SimpleNamespace(anomaly_sources=lambda data: sources, synthesiser="confetti")


def values(images: torch.Tensor) -> list[int]:
    """The value of each image's first pixel, which names the bank it is from."""
    return images[:, 0, 0, 0].tolist()


def test_each_kind_that_the_detector_learns_from_has_the_same_share() -> None:
    bank, kinds = training_anomalies(learning_from("outliers", "known"), DATA, 0)
    assert kinds == {"outliers": 20, "known": 3}
    assert sorted(values(bank)) == [60] * 20 + [100] * 20


def test_synthetic_ones_are_drawn_on_train_normals_and_follow_the_seed() -> None:
    bank, kinds = training_anomalies(learning_from("synthetic"), DATA, 0)
    assert kinds == {"synthetic": 40}
    assert not torch.equal(bank, DATA.normals)
    assert (bank == DATA.normals).float().mean() > 0.3
    assert torch.equal(bank, training_anomalies(learning_from("synthetic"), DATA, 0)[0])
    assert not torch.equal(bank, training_anomalies(learning_from("synthetic"), DATA, 1)[0])


def test_the_kinds_of_a_real_detector_are_those_of_its_batches() -> None:
    assert training_anomalies(build_detector("hsc"), DATA, 0)[1] == {"outliers": 20, "known": 3}
    assert training_anomalies(build_detector("fcdd"), DATA, 0)[1] == {"known": 3, "synthetic": 40}


@pytest.mark.parametrize("detector", [learning_from(), object(), build_detector("dsvdd")])
def test_a_detector_that_learns_from_normals_alone_leaves_every_kind(detector: object) -> None:
    _, kinds = training_anomalies(detector, DATA, 0)
    assert kinds == {"outliers": 20, "known": 3, "synthetic": 40}


def test_no_image_of_val_or_for_the_temperature_is_in_it() -> None:
    bank, _ = training_anomalies(learning_from("outliers", "known", "synthetic"), DATA, 0)
    whole = {tuple(image.flatten().tolist()) for image in bank}
    assert not whole & {tuple(image.flatten().tolist()) for image in (*DATA.val_normals, *DATA.calibration_defects)}


def test_nothing_to_train_against_gives_an_empty_bank() -> None:
    bank, kinds = training_anomalies(
        learning_from("known"), TrainingData(DATA.normals, DATA.val_normals, flat(0, 0), None, flat(0, 0)), 0
    )
    assert (len(bank), kinds) == (0, {})


def detector(version: int = 1, weights: str = 32 * "aa") -> ModelRef:
    return ModelRef("xad.coloured-mnist.bce", version, "run", {FILES: f'{{"weights.safetensors": "{weights}"}}'})


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(ordering, "dvc_hashes", lambda project, name: {"manifest": f"md5 of {name}"})
    settings = load_settings(PARAMS)
    return lambda ref, explainer="diverse", settings=settings: explainer_order(
        Project(Home(tmp_path, tmp_path / "var"), settings), "coloured-mnist", ref, explainer
    )


def test_other_weights_are_other_work_and_another_version_of_the_same_is_only_registered_again(order) -> None:
    first, same, other = order(detector()), order(detector(version=2)), order(detector(weights=32 * "bb"))
    assert first.key == same.key != other.key
    assert first.registered_key != same.registered_key
    assert first.model_name == "xad.coloured-mnist.bce.diverse"


def test_settings_of_the_explainer_decide_its_key_and_the_gates_rules_do_not(order) -> None:
    settings = load_settings(PARAMS)
    block = settings.retrain.explainers["diverse"][0].model_copy(update={"settings": {"width": 8}})
    there = settings.retrain.model_copy(update={"explainers": {"diverse": (block,)}})
    assert order(detector(), settings=settings.model_copy(update={"retrain": there})).settings == {
        "concepts": 2,
        "width": 8,
    }
    changed = settings.model_copy(update={"explainers": {**settings.explainers, "diverse": {"concepts": 3}}})
    assert order(detector(), settings=changed).key != order(detector()).key
    rules = settings.gate.model_copy(update={"explained": 5})
    assert order(detector(), settings=settings.model_copy(update={"gate": rules})).key == order(detector()).key


def test_an_explainer_that_needs_no_training_and_data_that_are_not_there_are_refused(order, monkeypatch) -> None:
    with pytest.raises(WrongUse, match="explain.explainers"):
        order(detector(), "sparse")
    built = {"coloured-mnist": {"manifest": "md5"}}
    monkeypatch.setattr(ordering, "dvc_hashes", lambda project, name: built.get(name, {}))
    with pytest.raises(BadManifest, match="validate@coloured-mnist-outliers"):
        order(detector())


def test_a_detectors_name_is_the_first_part_of_its_explainers() -> None:
    assert ModelRef("a.b.c.d", 1, "", {EXPLAINS_VERSION: "4"}).part == "explainer"
    assert detector().part == "detector"
