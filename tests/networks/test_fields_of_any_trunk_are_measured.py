"""Measured receptive fields against the arithmetic, against perturbed pixels, and against the cells there
really are.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xadflow.errors import BadInput
from xadflow.networks.cut import CutTrunk, trunk_fields
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.outline import outline, steps
from xadflow.networks.published import NETWORKS, dense_network, fields_of
from xadflow.networks.receptive_fields import measured_fields
from xadflow.networks.upsampling import Field

VGG = "torchvision:vgg11_bn"


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(37, 50), (224, 96)])
def test_they_equal_the_arithmetic_for_every_network_of_the_paper(name: str, size: tuple[int, int]):
    assert measured_fields(dense_network(name, 1), *size, channels=1) == fields_of(name, *size)


@pytest.mark.parametrize(("side", "cells"), [(224, 28), (200, 25), (312, 39)])
def test_vgg_cut_as_published_has_the_published_field(side: int, cells: int):
    assert TrunkSettings().steps(VGG)[0] == 21
    assert trunk_fields(VGG, 21, side, 312) == (Field(cells, 8, 62, 3.5), Field(39, 8, 62, 3.5))


def lit_rows(network: nn.Module, height: int, width: int, cell: int, axis: int) -> list[int]:
    """Rows (or columns) of the image that move a cell of the middle when they are drawn anew, one after the other."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64)
    moved = []
    with torch.no_grad():
        whole = network(image).select(2 + axis, cell)
        for place in range(image.shape[2 + axis]):
            other = image.clone()
            other.select(2 + axis, place).copy_(torch.rand(3, image.shape[3 - axis], generator=generator) * 40 - 20)
            if not torch.equal(network(other).select(2 + axis, cell), whole):
                moved.append(place)
    return moved


@pytest.mark.parametrize(
    ("name", "cut", "height", "width"),
    [
        ("torchvision:resnet18", 4, 48, 40),
        ("torchvision:resnet18", 5, 72, 32),
        ("lite0", 4, 37, 44),
        ("torchvision:squeezenet1_1", 5, 50, 41),
    ],
)
def test_a_cell_moves_with_the_pixels_of_its_field_and_with_no_other(name: str, cut: int, height: int, width: int):
    """In float64 with random weights: any change in the field shows in one of the channels of a whole row of cells."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CutTrunk(name, TrunkSettings(cut=cut)).double().eval()
    for axis, field in enumerate(trunk_fields(name, cut, height, width)):
        cell = field.cells // 2
        centre, half = field.start + cell * field.stride, (field.extent - 1) / 2
        side = (height, width)[axis]
        inside = [place for place in range(side) if abs(place - centre) <= half]
        assert lit_rows(network, height, width, cell, axis) == inside


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v2",
        *(f"torchvision:{name}" for name in ("shufflenet_v2_x0_5", "googlenet", "alexnet", "mobilenet_v3_small")),
    ],
)
@pytest.mark.parametrize("size", [(97, 64), (80, 131)])
def test_there_are_as_many_cells_as_measured(name: str, size: tuple[int, int]):
    cut = TrunkSettings().steps(name)[0]
    with torch.no_grad():
        found = CutTrunk(name, TrunkSettings()).eval()(torch.rand(1, 3, *size))
    assert found.shape[2:] == tuple(field.cells for field in trunk_fields(name, cut, *size))
    assert found.shape[1] == outline(name).channels[cut - 1]


def test_the_whole_of_a_residual_network_has_its_known_field():
    assert [field.extent for field in trunk_fields("torchvision:resnet18", 8, 64, 64)] == [435, 435]


def test_gates_that_look_at_the_whole_image_are_left_out():
    class SqueezeExcitation(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return maps * maps.mean(dim=(2, 3), keepdim=True)

    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), SqueezeExcitation(), nn.Conv2d(4, 4, 3, padding=1))
    assert measured_fields(network, 40, 64) == (Field(20, 2, 7, 0.0), Field(32, 2, 7, 0.0))


def test_kernels_that_are_not_square_or_not_dense_and_uneven_padding():
    network = nn.Sequential(
        nn.Conv2d(3, 4, (1, 5), padding=(0, 2)), nn.ZeroPad2d((0, 1, 0, 3)), nn.Conv2d(4, 4, 3, stride=2, dilation=2)
    )
    assert measured_fields(network, 33, 34) == (Field(16, 2, 5, 2.0), Field(16, 2, 9, 2.0))


def test_the_network_itself_is_left_as_it_was():
    network = nn.Sequential(*(step for _, step in steps("torchvision:resnet18", 5)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measured_fields(network, 64, 64)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


def test_images_too_small_for_the_trunk_are_refused():
    with pytest.raises(BadInput, match="too small.*cut"):
        trunk_fields("torchvision:inception_v3", 18, 64, 64)
    with pytest.raises(BadInput, match="power of two|1, 2, 4"):
        measured_fields(nn.Conv2d(3, 4, 3, stride=3), 64, 64)
