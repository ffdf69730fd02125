"""The networks of the FCDD paper: fully convolutional ones, and their twins that end in a vector or a reconstruction.

Layer lists as in the published code (docs/explanation/methods.md, "FCDD"; liznerski/fcdd, MIT, reimplemented).
Convolutions keep the size; batch normalisation has eps 1e-4, leaky ReLU the slope .01. What the lists leave open, and
what is done here: CNN224 has no activation after its last wide convolution, as the released CNN28_W and CNN32_LW3K; a
vector twin pools its last map to the twin's own grid, so that it takes images of any size. `vgg11` has the convolutions
of VGG11-BN's first 21 layers under this page's normalisation and activation, untrained: no package carries its ImageNet
weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.errors import unknown_name
from xadflow.networks.upsampling import Field, receptive_field


class Conv(NamedTuple):
    """A convolution of odd `kernel` to `channels`, with batch normalisation and activation unless it is `bare`."""

    kernel: int
    channels: int
    bare: bool = False


class Pool(NamedTuple):
    """Maximum pooling."""

    kernel: int = 2
    stride: int = 2
    padding: int = 0


@dataclass(frozen=True)
class NetworkSpec:
    """One network: its layers up to the wide map, the sigma of its published heatmaps, and its vector twin.

    `vector` are the sizes of the twin's fully connected layers, `grid` the side of the map they read; `vector_layers`
    are its convolutions where they differ.
    """

    layers: tuple[Conv | Pool, ...]
    sigma_px: float
    vector: tuple[int, ...]
    grid: int
    vector_layers: tuple[Conv | Pool, ...] = ()


def _cnn28(first: int, second: int) -> tuple[Conv | Pool, ...]:
    return (Conv(5, first), Pool(), Conv(5, second, bare=True), Pool())


def _cnn32(kernel: int) -> tuple[Conv | Pool, ...]:
    return (Conv(kernel, 32), Pool(), Conv(kernel, 64), Pool(), Conv(kernel, 128, bare=True))


def _cnn224(wide: int) -> tuple[Conv | Pool, ...]:
    pool = Pool(3, 2, 1)
    return (
        Conv(5, 8 * wide),
        pool,
        Conv(5, 32 * wide),
        pool,
        Conv(3, 64 * wide),
        Conv(3, 128 * wide),
        pool,
        Conv(3, 128 * wide, bare=True),
    )


_LW3K = (Conv(3, 128), Pool(), Conv(3, 256), Conv(3, 256), Pool(), Conv(3, 128, bare=True))
_VGG11 = (Conv(3, 64), Pool(), Conv(3, 128), Pool(), Conv(3, 256), Conv(3, 256), Pool(), Conv(3, 512), Conv(3, 512))

NETWORKS = {
    "cnn28": NetworkSpec(_cnn28(8, 16), 1.2, (32,), 7),
    "cnn28_w": NetworkSpec(_cnn28(128, 128), 1.2, (48,), 7, _cnn28(128, 64)),
    "cnn32": NetworkSpec(_cnn32(5), 1.2, (512, 64), 4),
    "cnn32_s": NetworkSpec(_cnn32(3), 1.2, (512, 64), 4),
    "cnn32_lw3k": NetworkSpec(_LW3K, 1.2, (512, 64), 4),
    "cnn224": NetworkSpec(_cnn224(1), 12.0, (512, 64), 7),
    "cnn224_w": NetworkSpec(_cnn224(4), 12.0, (512, 64), 7),
    "vgg11": NetworkSpec(_VGG11, 12.0, (512, 64), 7),
}


def network_spec(name: str) -> NetworkSpec:
    """What is known of a network. Raises UnknownName."""
    if name not in NETWORKS:
        raise unknown_name("no network of that name", name, NETWORKS)
    return NETWORKS[name]


def network_for(height: int, width: int) -> str:
    """What suits images of this size: cnn28 up to 28 px, cnn32_lw3k up to 64, above cnn224.

    The last two are the published choices. Up to 28 px that is cnn28_w, eight to sixteen times as wide as cnn28, and
    slow without a GPU.
    """
    side = max(height, width)
    return "cnn28" if side <= 28 else "cnn32_lw3k" if side <= 64 else "cnn224"


def fields_of(name: str, height: int, width: int) -> tuple[Field, Field]:
    """Receptive-field arithmetic of the dense network's map along rows and columns."""
    shapes = [
        (layer.kernel, 1, layer.kernel // 2) if isinstance(layer, Conv) else (layer.kernel, layer.stride, layer.padding)
        for layer in network_spec(name).layers
    ]
    return receptive_field(height, shapes), receptive_field(width, shapes)


def dense_network(name: str, channels: int) -> nn.Sequential:
    """Images [B,channels,H,W] to one response a cell, [B,1,u,v]."""
    layers = network_spec(name).layers
    return nn.Sequential(*_encoder(layers, channels, bias=True), nn.Conv2d(_width(layers), 1, 1))


def vector_network(name: str, channels: int, outputs: int | None, *, bias: bool = True) -> nn.Sequential:
    """Images [B,channels,H,W] to vectors [B,d]; d is the twin's own or `outputs`.

    Without `bias` no layer can answer the same to every image, which DSVDD needs: neither convolutions nor linear
    layers have one, and batch normalisation has no affine part (Ruff et al., ICML 2018, section 3.3).
    """
    spec = network_spec(name)
    layers = spec.vector_layers or spec.layers
    sizes = [_width(layers) * spec.grid**2, *spec.vector[:-1], outputs or spec.vector[-1]]
    head: list[nn.Module] = []
    for number, (size, following) in enumerate(zip(sizes, sizes[1:], strict=False)):
        head.append(nn.Linear(size, following, bias=bias))
        if number < len(sizes) - 2:
            head += [nn.BatchNorm1d(following, eps=1e-4, affine=bias), nn.LeakyReLU(0.01)]
    return nn.Sequential(*_encoder(layers, channels, bias=bias), nn.AdaptiveAvgPool2d(spec.grid), nn.Flatten(), *head)


class Autoencoder(nn.Module):
    """Encoder of the vector twin, a bottleneck of its size, and its mirror; the last layer is linear.

    The published AE28 and AE224 end in a sigmoid, which fits min-max scaled images only.
    """

    def __init__(self, name: str, shape: tuple[int, int, int]) -> None:
        super().__init__()
        spec = network_spec(name)
        layers = spec.vector_layers or spec.layers
        self.encode = vector_network(name, shape[0], None)
        self.width, self.grid, self.size = _width(layers), spec.grid, shape[1:]
        self.expand = nn.Linear(spec.vector[-1], self.width * self.grid**2)
        self.decode = nn.ModuleList(_decoder(layers, self.width, shape[0]))

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction [B,C,H,W]."""
        pools = sum(isinstance(layer, _Doubling) for layer in self.decode)
        hidden: Tensor = self.expand(self.encode(images)).view(-1, self.width, self.grid, self.grid)
        hidden = F.interpolate(hidden, size=[-(-side // 2**pools) for side in self.size], mode="nearest")
        for layer in self.decode:
            hidden = layer(hidden)
        return hidden[..., : self.size[0], : self.size[1]]


class _Doubling(nn.Module):
    """Nearest-neighbour enlargement by two, where the encoder pools."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=2.0, mode="nearest")


def _encoder(layers: Sequence[Conv | Pool], channels: int, *, bias: bool) -> Iterator[nn.Module]:
    for layer in layers:
        if isinstance(layer, Pool):
            yield nn.MaxPool2d(*layer)
            continue
        yield nn.Conv2d(channels, layer.channels, layer.kernel, padding=layer.kernel // 2, bias=bias)
        if not layer.bare:
            yield nn.BatchNorm2d(layer.channels, eps=1e-4, affine=bias)
            yield nn.LeakyReLU(0.01)
        channels = layer.channels


def _decoder(layers: Sequence[Conv | Pool], width: int, channels: int) -> Iterator[nn.Module]:
    convolutions = [layer for layer in layers if isinstance(layer, Conv)]
    outputs = [*(layer.channels for layer in reversed(convolutions[:-1])), channels]
    number = 0
    for layer in reversed(layers):
        if isinstance(layer, Pool):
            yield _Doubling()
            continue
        yield nn.ConvTranspose2d(width, outputs[number], layer.kernel, padding=layer.kernel // 2)
        width = outputs[number]
        if number < len(outputs) - 1:
            yield nn.BatchNorm2d(width, eps=1e-4)
            yield nn.LeakyReLU(0.01)
        number += 1


def _width(layers: Sequence[Conv | Pool]) -> int:
    return [layer.channels for layer in layers if isinstance(layer, Conv)][-1]
