"""Networks of the FCDD paper: receptive fields, map sizes and twins as tabled in
docs/explanation/methods.md, "FCDD".
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xadflow.errors import UnknownName
from xadflow.networks.published import (
    NETWORKS,
    Autoencoder,
    dense_network,
    fields_of,
    network_for,
    network_spec,
    vector_network,
)

TABLE = {  # name: (image side, map side, stride, receptive field, first centre)
    "cnn28": (28, 7, 4, 16, 1.5),
    "cnn28_w": (28, 7, 4, 16, 1.5),
    "cnn32": (32, 8, 4, 32, 1.5),
    "cnn32_s": (32, 8, 4, 18, 1.5),
    "cnn32_lw3k": (32, 8, 4, 22, 1.5),
    "vgg11": (224, 28, 8, 62, 3.5),
    "cnn224": (224, 28, 8, 59, 0.0),
    "cnn224_w": (224, 28, 8, 59, 0.0),
}


@pytest.mark.parametrize("name", TABLE)
def test_fields_are_those_of_the_table(name: str):
    side, cells, stride, extent, start = TABLE[name]
    assert fields_of(name, side, side) == ((cells, stride, extent, start),) * 2
    assert set(TABLE) == set(NETWORKS)


@pytest.mark.parametrize("name", ["cnn28", "cnn32", "cnn32_s", "cnn32_lw3k", "cnn224"])
def test_a_response_sees_exactly_its_receptive_field(name: str):
    """The gradient of one cell, with maximum pooling made mean pooling so that no path is hidden by a maximum."""
    network = dense_network(name, 1).double().eval()
    rows, columns = fields_of(name, 96, 128)
    for position, layer in enumerate(network):
        if isinstance(layer, nn.MaxPool2d):
            network[position] = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, count_include_pad=False)
        elif isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1.0)
        elif isinstance(layer, nn.LeakyReLU):
            network[position] = nn.Identity()
    image = torch.ones(1, 1, 96, 128, dtype=torch.float64, requires_grad=True)
    response = network(image)
    assert response.shape == (1, 1, rows.cells, columns.cells)
    y, x = rows.cells // 2, columns.cells // 2
    (gradient,) = torch.autograd.grad(response[0, 0, y, x], image)
    seen = gradient[0, 0] != 0
    for field, cell, lit in ((rows, y, seen.any(dim=1)), (columns, x, seen.any(dim=0))):
        centre, half = field.start + cell * field.stride, (field.extent - 1) / 2
        inside = [place for place in range(len(lit)) if abs(place - centre) <= half]
        assert lit.nonzero().flatten().tolist() == inside


@pytest.mark.parametrize(("name", "side", "sizes"), [("cnn28_w", 28, [3136, 48]), ("cnn32_lw3k", 32, [2048, 512, 64])])
def test_vector_twins_have_the_published_layers(name: str, side: int, sizes: list[int]):
    layers = [layer for layer in vector_network(name, 1, None) if isinstance(layer, nn.Linear)]
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == sizes
    assert vector_network(name, 1, None).eval()(torch.zeros(2, 1, side, side)).shape == (2, sizes[-1])


def test_without_bias_nothing_is_left_that_answers_the_same_to_every_image():
    network = vector_network("cnn32_lw3k", 3, None, bias=False)
    assert not [name for name, _ in network.named_parameters() if name.endswith("bias")]
    assert vector_network("cnn28", 1, None, bias=False).eval()(torch.zeros(1, 1, 28, 28)).abs().max() == 0


@pytest.mark.parametrize(("name", "size"), [("cnn28", (28, 28)), ("cnn32_s", (37, 50)), ("cnn224", (100, 64))])
def test_reconstructions_have_the_size_of_their_image(name: str, size: tuple[int, int]):
    assert Autoencoder(name, (3, *size)).eval()(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_the_network_follows_the_image_size():
    assert [network_for(side, 20) for side in (28, 29, 64, 65)] == ["cnn28", "cnn32_lw3k", "cnn32_lw3k", "cnn224"]


def test_an_unknown_network_is_answered_by_the_nearest():
    with pytest.raises(UnknownName, match="cnn28_w"):
        network_spec("cnn28w")
