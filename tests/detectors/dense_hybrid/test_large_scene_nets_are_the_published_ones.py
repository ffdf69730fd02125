"""Ladder-DenseNet and DeepLabV3+: published sizes and costs, any image size, training that checkpoints change nothing
of.
"""

from __future__ import annotations

import copy
import doctest
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import densenet121, resnet50

from benchmarks import multiply_accumulates as counting
from benchmarks.multiply_accumulates import multiply_accumulates
from tests.detectors.dense_hybrid.conftest import run_in, scenes, training_data
from xadflow.detectors.base import load_detector
from xadflow.detectors.dense_hybrid.detector import DenseHybrid
from xadflow.detectors.dense_hybrid.large_networks import LadderDenseNet, PyramidPooling
from xadflow.detectors.dense_hybrid.networks import NETS, build_net
from xadflow.digests import sha256_file
from xadflow.errors import BadInput
from xadflow.explainers.cues import CuesExplainer
from xadflow.images import as_float
from xadflow.networks.weight_files import pretrain

LARGE = {name: 514 if name.startswith("ladder") else 1218 for name in NETS if name != "mobile"}
LDN, DLV3 = "ladder_densenet121", "deeplab_resnet50"


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    return {name: build_net(name, 5, 3, pretrained=False).eval() for name in (LDN, DLV3)}


@pytest.mark.parametrize("name", LARGE)
def test_the_dataset_head_has_the_published_number_of_parameters(name):
    net = build_net(name, 19, 3, pretrained=False)
    assert sum(parameter.numel() for parameter in net.head_parameters()) == LARGE[name]
    parts = [net.trunk_parameters(), net.head_parameters(), net.other_parameters()]
    numbers = [id(parameter) for part in parts for parameter in part]
    assert sorted(numbers) == sorted(map(id, net.parameters()))


@pytest.mark.parametrize("name", [LDN, DLV3])
@pytest.mark.parametrize("size", [(65, 97), (75, 64), (33, 130)])
def test_any_size_gives_maps_at_a_quarter_rounded_up_and_one_image_is_enough(nets, name, size):
    net = nets[name]
    with torch.no_grad():
        classes, dataset = net(torch.rand(1, 3, *size))
    quarter = tuple(-(-side // 4) for side in size)
    assert classes.shape == (1, 5, *quarter)
    assert dataset.shape == (1, 2, *quarter)
    assert bool(classes.isfinite().all())
    with pytest.raises(BadInput, match=f"at least {net.stride} px"):
        net(torch.rand(1, 3, net.stride - 1, 64))


@pytest.mark.parametrize("name", [LDN, DLV3])
def test_grey_images_are_seen_and_gradients_reach_every_parameter_and_the_image(name):
    net = build_net(name, 3, 1, pretrained=False).train()
    images = torch.rand(2, 1, 64, 64, requires_grad=True)
    classes, dataset = net(images)
    (classes.square().mean() + dataset.square().mean()).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in net.parameters())
    moved = sum(bool(parameter.grad.abs().sum() > 0) for parameter in net.parameters())
    assert moved > 0.95 * len(list(net.parameters()))
    assert float(images.grad.abs().sum()) > 0.0


@pytest.mark.parametrize("name", [LDN, DLV3])
def test_constants_move_with_the_net(nets, name):
    net = copy.deepcopy(nets[name])
    tensors = {key for key, _ in [*net.named_parameters(), *net.named_buffers()]}
    assert {"mean", "std"} <= tensors
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = net(images)[0]
        in_double = net.double()(images.double())[0]
        assert float((in_double - before).abs().max()) < 1e-4 * float(before.abs().max())
        there = net.to("meta")(images.to("meta"))
    assert {part.device.type for part in there} == {"meta"}
    other = build_net(name, 5, 3, pretrained=False).eval()
    other.load_state_dict(nets[name].state_dict())
    with torch.no_grad():
        assert torch.equal(other(images)[1], nets[name](images)[1])


def test_trunks_compute_what_torchvision_computes_from_the_same_weights(nets):
    """In float64: in float32 half of a tolerance of 1e-4 was used up, the more or less as weights were drawn."""
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).double().eval()
    trunk = copy.deepcopy(nets[DLV3].trunk).double()
    trunk.take(theirs.state_dict())
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        x = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        assert x.shape == (1, 2048, 8, 12)
        torch.testing.assert_close(trunk(images), x, rtol=1e-9, atol=1e-9)
    theirs = densenet121(weights=None).double().eval()
    trunk = copy.deepcopy(nets[LDN].trunk).double()
    trunk.take(theirs.state_dict())
    theirs.features.pool0 = torch.nn.MaxPool2d(2)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images), theirs.features[:-1](images), rtol=1e-9, atol=1e-9)


def test_packaged_weights_are_asked_for_in_vain_and_that_is_said(caplog):
    build_net(LDN, 5, 3)
    assert "densenet121: the trunk starts untrained" in caplog.text
    build_net(DLV3, 5, 3)
    assert "resnet50: the trunk starts untrained" in caplog.text
    caplog.clear()
    build_net(LDN, 5, 3, pretrained=False)
    assert not caplog.text


def test_weights_of_a_file_of_the_project_fit_the_trunk(tmp_path, monkeypatch):
    theirs = densenet121(weights=None)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("{}\n")
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, tmp_path / "dense.safetensors")
    monkeypatch.setenv("XADFLOW_PROJECT", str(tmp_path))
    net = build_net(LDN, 5, 3, pretrained=False)
    assert pretrain(net, "dense.safetensors") == sha256_file(tmp_path / "dense.safetensors")
    assert torch.equal(net.trunk.steps[0].weight, theirs.features.conv0.weight)
    assert torch.equal(
        net.trunk.steps[-1].denselayer16.conv2.weight, theirs.features.denseblock4.denselayer16.conv2.weight
    )


def test_the_detector_trains_a_large_net_and_brings_it_back(tmp_path):
    few = {"min_steps": 2, "batch_size": 2, "epochs": 1e-6}
    detector = DenseHybrid(net=LDN, closed=few, hybrid=few, sheets=1)
    detector.fit(training_data(8), run_in(tmp_path))
    detector.save(tmp_path / "saved")
    back = load_detector(tmp_path / "saved")
    images = as_float(scenes(2, 5)[0])
    with torch.no_grad():
        assert torch.equal(back.score(images).map, detector.score(images).map)
    (one, _) = CuesExplainer().explain(back, images)
    assert {"cue.ln_p_out", "cue.minus_ln_p_hat", "classes"} <= {shown.name for shown in one.images}
    assert sum(value for name, value in one.metrics.items() if name.startswith("share.")) == pytest.approx(1.0)


def _kept(seen, tensor):
    seen[tensor.data_ptr()] = tensor
    return tensor


def test_checkpointing_keeps_less_and_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    plain = LadderDenseNet(3, 3, pretrained=False).train()
    sparing = LadderDenseNet(3, 3, pretrained=False, checkpointing=True).train()
    sparing.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    kept = {}
    for name, net in (("plain", plain), ("sparing", sparing)):
        seen = {}
        keep = partial(_kept, seen)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
            loss = sum(part.square().mean() for part in net(images))
            kept[name] = sum(one.numel() for one in seen.values())
        loss.backward()
    weights = sum(parameter.numel() for parameter in plain.parameters())
    assert kept["sparing"] - weights < 0.5 * (kept["plain"] - weights)
    for (name, one), other in zip(plain.named_parameters(), sparing.parameters(), strict=True):
        torch.testing.assert_close(
            other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for (name, one), other in zip(plain.named_buffers(), sparing.buffers(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert {module.momentum for module in sparing.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.01}


def test_the_pyramids_grids_follow_the_aspect(monkeypatch):
    seen, pool = [], torch.nn.functional.adaptive_avg_pool2d
    monkeypatch.setattr(
        torch.nn.functional, "adaptive_avg_pool2d", lambda maps, grid: seen.append(grid) or pool(maps, grid)
    )
    with torch.no_grad():
        out = PyramidPooling(16).eval()(torch.rand(1, 16, 32, 64))
    assert out.shape == (1, 512, 32, 64)
    assert seen == [(8, 16), (4, 8), (2, 4), (1, 2)]


def test_the_cost_of_the_head_is_the_published_one():
    net = build_net(LDN, 19, 3, pretrained=False)
    found = multiply_accumulates(net, 1024, 2048)
    assert found.plain == pytest.approx(205.728e9, rel=1e-3)
    assert found.hybrid == pytest.approx(205.762e9, rel=1e-3)
    assert found.head == 2 * 128 * 256 * 512
    assert found.overhead <= 0.001
    assert next(net.parameters()).device.type == "cpu"
    told = doctest.testmod(counting)
    assert told.attempted > 0
    assert told.failed == 0


def test_costs_are_those_of_a_convolution_by_hand():
    class OneByOne(type(build_net("mobile", 2, 3, pretrained=False))):
        def maps(self, prepared):
            quarter = prepared[..., ::4, ::4].repeat(1, 22, 1, 1)[:, :64]
            return self.class_head(quarter), self.dataset_head(quarter)

    found = multiply_accumulates(OneByOne(7, 3, pretrained=False), 64, 96)
    assert found == (64 * 7 * 16 * 24, 64 * 2 * 16 * 24)
