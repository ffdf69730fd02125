"""Lite0 is timm's network, tensor by tensor and bit by bit, with strided depthwise convolutions that pad as they go."""

from __future__ import annotations

import pytest
import torch
from timm import create_model
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from xadflow.networks.lite0 import PaddedSame
from xadflow.networks.pretrained import Trunk, _pad_in_place, _PaddedAlike, load_network


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("side", [(32, 32), (33, 32), (9, 14), (5, 5), (8, 63)])
def test_a_convolution_that_pads_as_it_goes_gives_the_bits_of_timms_own(kernel: int, side: tuple[int, int]) -> None:
    torch.manual_seed(kernel)
    reference = Conv2dSame(6, 6, kernel, stride=2, groups=6)
    own = nn.Sequential(PaddedSame(6, 6, kernel, stride=2, groups=6))
    own[0].load_state_dict(reference.state_dict())
    images = torch.randn(3, 6, *side).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    before, copied = reference(images), own(images)
    _pad_in_place(own)
    assert isinstance(own[0], _PaddedAlike)
    after = own(images)
    assert torch.equal(before, copied)
    assert torch.equal(before, after)
    slopes = [torch.autograd.grad(one.square().sum(), images)[0] for one in (before, copied, after)]
    assert torch.equal(slopes[0], slopes[1])
    assert torch.equal(slopes[0], slopes[2])


def test_layers_that_are_not_depthwise_or_not_strided_stay() -> None:
    layers = nn.Sequential(PaddedSame(3, 8, 3, stride=2), PaddedSame(8, 8, 3, stride=1, groups=8))
    _pad_in_place(layers)
    assert not any(isinstance(layer, _PaddedAlike) for layer in layers)


@pytest.mark.parametrize("side", [(64, 64), (65, 96)])
def test_the_whole_network_gives_the_bits_of_timms_own(side: tuple[int, int]) -> None:
    reference = create_model("tf_efficientnet_lite0", pretrained=False).eval()
    own = load_network("lite0")
    its = reference.state_dict()
    assert [(name, one.shape) for name, one in own.state_dict().items()] == [
        (name, one.shape) for name, one in its.items()
    ]
    reference.load_state_dict(own.state_dict())
    images = torch.randn(2, 3, *side, generator=torch.Generator().manual_seed(0))
    images.requires_grad_(True)
    before, after = reference(images), own(images)
    assert torch.equal(before, after)
    slopes = [torch.autograd.grad(one.square().sum(), images)[0] for one in (before, after)]
    assert torch.equal(*slopes)


def test_the_trunk_has_four_of_them() -> None:
    assert sum(isinstance(layer, _PaddedAlike) for layer in Trunk("lite0", (5,)).modules()) == 4
