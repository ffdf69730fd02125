"""Weights of a trunk: a safetensors file inside the project, read once, checked by name and shape, never pickle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from xadflow.detectors import FitRun, TrainingData, as_float, build_detector, load_detector
from xadflow.detectors.one_class.detector import OneClass
from xadflow.errors import BadSettings, BadWeights, DataUnavailable, XadflowError
from xadflow.networks.cut import CutTrunk
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.weight_files import pretrain
from xadflow.work.week.order import _weights_of

RESNET = "torchvision:resnet18"
SHORT = {"network": RESNET, "min_steps": 10, "epochs": 0.01, "batch_size": 8}
TRUNK = {"weights": "weights/resnet18.safetensors", "cut": "layer1", "frozen": "maxpool"}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = torchvision.models.resnet18(weights=None)
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture
def project(tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "plant"
    (folder / "weights").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_text("")
    save_file(tensors, folder / "weights/resnet18.safetensors")
    monkeypatch.setenv("XADFLOW_PROJECT", str(folder))
    return folder


@pytest.fixture(scope="module")
def data(small_data: TrainingData) -> TrainingData:
    return dataclasses.replace(
        small_data,
        known=small_data.known[:0, :, ::2, ::2],
        known_masks=None,
        normals=small_data.normals[:, :, ::2, ::2],
        val_normals=small_data.val_normals[:, :, ::2, ::2],
    )


def run_in(folder: Path) -> FitRun:
    return FitRun(folder, seed=0, false_alarm_rate=0.1, device="cpu")


def taken(weights: str = "weights/resnet18.safetensors") -> CutTrunk:
    trunk = CutTrunk(RESNET, TrunkSettings(cut=5))
    pretrain(trunk, weights)
    return trunk


def test_the_trunk_starts_from_the_file_and_what_is_frozen_keeps_it(
    project: Path, data: TrainingData, tensors: dict[str, torch.Tensor], tmp_path: Path
):
    detector = build_detector("fcdd_conv", **SHORT, trunk=TRUNK)
    assert isinstance(detector, OneClass)
    detector.fit(data, run_in(tmp_path / "run"))
    trunk = next(part for part in detector.response.modules() if isinstance(part, CutTrunk))
    for name, value in trunk.tensors().items():
        if not name.startswith("layer1"):
            assert torch.equal(value, tensors[name]), name
        elif name.endswith("weight"):
            assert not torch.equal(value, tensors[name]), name


def test_a_saved_detector_does_not_need_the_file(project: Path, data: TrainingData, tmp_path: Path):
    detector = build_detector("hsc", **SHORT, trunk=TRUNK)
    detector.fit(data, run_in(tmp_path / "run"))
    detector.save(tmp_path / "saved")
    (project / "weights/resnet18.safetensors").unlink()
    images = as_float(data.val_normals[:4])
    with torch.no_grad():
        assert torch.equal(load_detector(tmp_path / "saved").score(images).image, detector.score(images).image)


def test_another_file_of_the_same_name_is_another_training(
    project: Path, data: TrainingData, tensors: dict[str, torch.Tensor], tmp_path: Path
):
    first = build_detector("fcdd_conv", **SHORT, trunk=TRUNK).fit(data, run_in(tmp_path / "run"))
    again = build_detector("fcdd_conv", **SHORT, trunk=TRUNK).fit(data, run_in(tmp_path / "run"))
    assert again.resumed_from == first.steps
    keys = [_weights_of(project, {"trunk": TRUNK})]
    changed = {**tensors, "conv1.weight": tensors["conv1.weight"] * 1.01}
    save_file(changed, project / "weights/resnet18.safetensors")
    keys.append(_weights_of(project, {"trunk": TRUNK}))
    assert build_detector("fcdd_conv", **SHORT, trunk=TRUNK).fit(data, run_in(tmp_path / "run")).resumed_from == 0
    assert keys[0].keys() == keys[1].keys() == {TRUNK["weights"]}
    assert keys[0] != keys[1]
    assert _weights_of(project, {"trunk": "lite0", "stages": (4, 5)}) == {}


def test_half_precision_and_the_trunk_alone_are_enough(project: Path, tensors: dict[str, torch.Tensor]):
    wanted = {
        name: value.half()
        for name, value in tensors.items()
        if name.split(".")[0] in ("conv1", "bn1", "layer1") and not name.endswith("num_batches_tracked")
    }
    save_file(wanted, project / "weights/half.safetensors")
    found = taken("weights/half.safetensors").tensors()
    assert found["conv1.weight"].dtype == torch.float32
    torch.testing.assert_close(found["conv1.weight"], tensors["conv1.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "weights",
    [
        "/etc/weights.safetensors",
        "../weights.safetensors",
        "weights/../../w.safetensors",
        "..\\w.safetensors",
        "c:/w.safetensors",
        "c:w.safetensors",
        "\\\\host\\w.safetensors",
        "weights/resnet18.pth",
        "",
        "a\0.safetensors",
    ],
)
def test_paths_that_leave_the_project_and_other_formats_are_refused(weights: str):
    with pytest.raises(BadSettings, match=r"trunk\.weights.*\.safetensors file inside the project"):
        build_detector("fcdd_conv", network=RESNET, trunk={"weights": weights})


def test_a_link_out_of_the_project_is_not_followed(project: Path, tensors: dict[str, torch.Tensor], tmp_path: Path):
    save_file(tensors, tmp_path / "elsewhere.safetensors")
    (project / "weights/link.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    (project / "weights/folder.safetensors").mkdir()
    for name in ("link", "folder", "absent"):
        with pytest.raises(DataUnavailable, match="no such file of weights in the project.*mend `weights`"):
            taken(f"weights/{name}.safetensors")


def test_what_is_wrong_with_a_file_is_said_before_any_work(project: Path, data: TrainingData, tmp_path: Path):
    (project / "weights/resnet18.safetensors").unlink()
    steps: list[int] = []
    run = dataclasses.replace(run_in(tmp_path / "run"), progress=lambda done, total, figures: steps.append(done))
    with pytest.raises(DataUnavailable, match=r"weights/resnet18\.safetensors"):
        build_detector("fcdd_conv", **SHORT, trunk=TRUNK).fit(data, run)
    assert steps == []


def test_files_that_do_not_fit_are_refused_by_tensor(project: Path, tensors: dict[str, torch.Tensor]):
    def refused(changed: dict[str, torch.Tensor] | bytes) -> str:
        path = project / "weights/odd.safetensors"
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            save_file(changed, path)
        with pytest.raises(BadWeights) as caught:
            taken("weights/odd.safetensors")
        assert isinstance(caught.value, XadflowError)
        return str(caught.value)

    without = {name: value for name, value in tensors.items() if name != "layer1.0.conv1.weight"}
    assert "layer1.0.conv1.weight" in refused(without)
    assert "bn1.weight" in refused({**tensors, "bn1.weight": torch.ones(63)})
    assert "another network" in refused({**tensors, "features.0.weight": torch.ones(3)})
    assert "model.bn1.bias" in refused({f"model.{name}": value for name, value in tensors.items()})
    assert "no number" in refused({**tensors, "bn1.bias": torch.full((64,), float("nan"))})
    assert "cannot be read" in refused(b"\x80\x04not safetensors")
    assert "cannot be read" in refused(b"")
    whole = (project / "weights/resnet18.safetensors").read_bytes()
    assert "cannot be read" in refused(whole[: len(whole) // 2])


def test_refused_weights_change_nothing(project: Path, tensors: dict[str, torch.Tensor]):
    trunk = CutTrunk(RESNET, TrunkSettings(cut=5))
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    with pytest.raises(BadWeights):
        trunk.take({**tensors, "layer1.1.bn2.bias": torch.ones(3)})
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
