"""Lite0's strided depthwise convolutions pad as they go: the sums are those of timm's own layer, bit for bit."""

from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from xadflow.networks.pretrained import Trunk, _pad_in_place, _PaddedAlike


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("side", [(32, 32), (33, 32), (9, 14), (5, 5), (8, 63)])
def test_a_convolution_that_pads_as_it_goes_gives_the_same_bits(kernel: int, side: tuple[int, int]):
    torch.manual_seed(kernel)
    whole = nn.Sequential(Conv2dSame(6, 6, kernel, stride=2, groups=6))
    images = torch.randn(3, 6, *side).contiguous(memory_format=torch.channels_last).requires_grad_(True)
    before = whole(images)
    (its_slope,) = torch.autograd.grad(before.square().sum(), images)
    _pad_in_place(whole)
    assert isinstance(whole[0], _PaddedAlike)
    after = whole(images)
    (slope,) = torch.autograd.grad(after.square().sum(), images)
    assert torch.equal(before, after)
    assert torch.equal(its_slope, slope)


def test_layers_that_are_not_depthwise_or_not_strided_stay():
    layers = nn.Sequential(Conv2dSame(3, 8, 3, stride=2), Conv2dSame(8, 8, 3, stride=1, groups=8))
    _pad_in_place(layers)
    assert not any(isinstance(layer, _PaddedAlike) for layer in layers)


def test_the_trunk_has_four_of_them():
    assert sum(isinstance(layer, _PaddedAlike) for layer in Trunk("lite0", (5,)).modules()) == 4
