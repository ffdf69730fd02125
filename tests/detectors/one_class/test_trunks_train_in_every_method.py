"""Each method of the one-class family on a trunk, as a Detector: a few steps on crops of a real texture."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from family_contract import check_gradient, check_same, check_scores, run_in

from xadflow.defects.drawn import synthetic_defects
from xadflow.detectors import TrainingData, as_float, build_detector, load_detector
from xadflow.detectors.base import WEIGHTS
from xadflow.detectors.one_class.detector import OneClass
from xadflow.metrics.ranks import auroc
from xadflow.networks.cut import CutTrunk

METHODS = ("fcdd_conv", "hsc", "dsvdd", "deep_sad", "bce")
TRUNKS = {
    "mobilenet_v2": {"cut": 4, "frozen": 2},
    "torchvision:resnet18": {"cut": "layer1", "frozen": "maxpool", "freeze_bn": False},
    "torchvision:vgg11_bn": {"cut": 8, "frozen": 4},
}
SHORT = {"min_steps": 20, "epochs": 1.0, "batch_size": 16, "learning_rate": 1e-3}


def settings_of(method: str) -> dict[str, object]:
    """Every method on one of the trunks, every trunk in some method."""
    network = list(TRUNKS)[METHODS.index(method) % len(TRUNKS)]
    return {**SHORT, "network": network, "trunk": TRUNKS[network]}


@pytest.fixture(scope="module")
def data(small_data: TrainingData) -> TrainingData:
    """Every second pixel and a strip less: 32 x 28 px."""
    masks = small_data.known_masks
    assert masks is not None
    return dataclasses.replace(
        small_data,
        known_masks=masks[:, ::2, :56:2],
        **{name: getattr(small_data, name)[:, :, ::2, :56:2] for name in ("normals", "val_normals", "known")},
    )


@pytest.fixture(scope="module")
def family(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, OneClass]:
    found = {}
    for method in METHODS:
        found[method] = build_detector(method, **settings_of(method))
        found[method].fit(data, run_in(tmp_path_factory.mktemp(method)))
    return found  # type: ignore[return-value]


@pytest.fixture(params=METHODS)
def detector(request: pytest.FixtureRequest, family: dict[str, OneClass]) -> OneClass:
    return family[request.param]


@pytest.fixture(scope="module")
def images(data: TrainingData) -> torch.Tensor:
    return as_float(torch.cat([data.val_normals[:6], data.known]))


def trunk_of(detector: OneClass) -> CutTrunk:
    return next(part for part in detector.response.modules() if isinstance(part, CutTrunk))


def test_it_is_a_detector_with_finite_untied_scores_and_a_map(detector: OneClass, images: torch.Tensor):
    assert images.shape[2:] == (32, 28)
    check_scores(detector, images)


def test_gradients_are_those_of_finite_differences_at_batch_one(detector: OneClass, images: torch.Tensor):
    single = check_gradient(detector, images[2:3])
    together = images[1:4].clone().requires_grad_()
    (batched,) = torch.autograd.grad(detector.score(together).image[1], together)
    torch.testing.assert_close(batched[1:2], single, rtol=2e-3, atol=2e-5 * float(single.abs().max()))
    assert torch.equal(batched[0], torch.zeros_like(batched[0]))


def test_saving_keeps_every_score_and_map_and_needs_no_weights_of_others(
    detector: OneClass, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    detector.save(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda *names: None)  # as if no package of weights were installed
    check_same(detector, load_detector(tmp_path), images)


@pytest.mark.parametrize("method", ["fcdd_conv", "hsc", "dsvdd"])
def test_a_killed_and_resumed_fit_equals_an_uninterrupted_one(
    method: str, family: dict[str, OneClass], data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("xadflow.detectors.one_class.detector.CHECKPOINT_EVERY", 7)
    with pytest.raises(KeyboardInterrupt):
        build_detector(method, **settings_of(method)).fit(data, run_in(tmp_path / "work", kill_at=17))
    resumed = build_detector(method, **settings_of(method))
    assert resumed.fit(data, run_in(tmp_path / "work")).resumed_from == 14
    for name, one in (("whole", family[method]), ("resumed", resumed)):
        one.save(tmp_path / name)
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "resumed" / WEIGHTS).read_bytes()


def test_a_packaged_trunk_starts_from_its_weights_and_its_frozen_part_keeps_them(family: dict[str, OneClass]):
    from xadflow.networks.pretrained import load_network

    packaged = load_network("mobilenet_v2").state_dict()
    trunk = trunk_of(family["fcdd_conv"])
    for name, value in trunk.tensors().items():
        if int(name.split(".")[1]) < 2:
            assert torch.equal(value, packaged[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(value, packaged[name])
            torch.testing.assert_close(value, packaged[name], rtol=0.1, atol=0.1)  # twenty small steps away


def test_a_trunk_is_trained_with_patience_and_through_the_compiler_too(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Graphs are captured as always and run by PyTorch itself; the check on unseen normals wakes nothing that is
    frozen.
    """
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("xadflow.detectors.one_class.detector.CHECKPOINT_EVERY", 4)
    vgg = "torchvision:vgg11_bn"
    settings = {**SHORT, "network": vgg, "trunk": TRUNKS[vgg], "min_steps": 8, "patience": 9, "curve": "exponential"}
    histories, trunks = [], []
    for name, compiled in (("plain", False), ("compiled", True)):
        detector = build_detector("fcdd_conv", **settings, compile=compiled)
        histories.append(detector.fit(data, run_in(tmp_path / name)).history)
        trunks.append(trunk_of(detector).steps[:4].state_dict())  # type: ignore[arg-type]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for mine, other in zip(*histories, strict=True):
        assert mine[2] == pytest.approx(other[2], rel=1e-2, abs=1e-4)
    assert all(torch.equal(value, trunks[1][name]) for name, value in trunks[0].items())


def test_a_pretrained_trunk_learns_to_find_defects_that_it_has_not_seen(
    data: TrainingData, unseen_crops: torch.Tensor, tmp_path: Path
):
    normal = unseen_crops[:, :, ::2, :56:2]
    defective, _ = synthetic_defects(normal, torch.Generator().manual_seed(9), ("squares",))
    label = np.array([0] * len(normal) + [1] * len(normal))
    found = {}
    for steps in (1, 80):
        detector = build_detector(
            "fcdd_conv",
            network="mobilenet_v2",
            trunk={"cut": 4, "frozen": 1},
            min_steps=steps,
            epochs=0.01,
            batch_size=32,
            learning_rate=5e-3,
        )
        detector.fit(data, run_in(tmp_path / str(steps)))
        with torch.no_grad():
            scores = detector.score(as_float(torch.cat([normal, defective]))).image.double().numpy()
        found[steps] = auroc(scores, label)
    assert found[80] > 0.7
    assert found[80] > found[1] + 0.15
