"""What a net of scenes is, and how one is built by name: class logits and a two-channel dataset head from one pass.

    s, o = net(images)      s: [B,K,h,w], ln p_hat(x, y) up to a constant; o: [B,2,h,w], channel 0 d_in, channel 1 d_out

The maps come at the net's own resolution; whoever asks makes them larger by :func:`enlarged`.

The light net: MobileNetV2 down to 1/16, two up-blocks with skips, both heads on the feature at 1/4. For a CPU.

    features[0:14]  ->  24 @ /4,  32 @ /8,  96 @ /16  ->  1x1 to 64  ->  up with /8  ->  up with /4  ->  heads

The ladder is that of Ladder-DenseNet (arXiv 1905.05661), narrowed. Weights of the trunk: see backbones.py,
BSD-3-Clause.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.errors import BadInput, unknown_name
from xadflow.networks.pretrained import TRUNKS, architecture, load_network

NETS: Mapping[str, str] = {
    "mobile": "xadflow.detectors.dense_hybrid.networks:MobileSceneNet",
    "ladder_densenet121": "xadflow.detectors.dense_hybrid.large_networks:LadderDenseNet",
    "deeplab_resnet50": "xadflow.detectors.dense_hybrid.large_networks:DeepLabV3Plus",
    "deeplab_resnet101": "xadflow.detectors.dense_hybrid.large_networks:DeepLabResNet101",
    "deeplab_wide_resnet50_2": "xadflow.detectors.dense_hybrid.large_networks:DeepLabWideResNet50",
}
"""Name to `module:class`; a class takes (num_classes, channels, pretrained)."""


class SceneNet(nn.Module, ABC):
    """Base of all nets of scenes: images [B,channels,H,W] in [0,1], of any sides of at least `stride`.

    `stride` is that of the coarsest grid: the least side, and what tiles of a larger image should be a multiple of. The
    net normalises by itself; grey images are repeated to three channels. `dataset_head` is the new head, all of it.
    """

    stride: int
    dataset_head: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if num_classes < 1 or channels not in (1, 3):
            raise BadInput(
                "a net of scenes needs a class, and images with one or three channels",
                seen=(num_classes, channels),
                next_step="look at `classes` of the labels and `channels` of the data set",
            )
        self.num_classes, self.channels = num_classes, channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [B,K,h,w] and dataset logits [B,2,h,w]. Raises BadInput: other channels, or a side below the
        stride.
        """
        if images.ndim != 4 or images.shape[1] != self.channels or min(images.shape[2:]) < self.stride:
            raise BadInput(
                f"this net takes [B,{self.channels},H,W] with sides of at least {self.stride} px",
                seen=tuple(images.shape),
                next_step="raise size_px of the data set in params.yaml",
            )
        prepared = (images.expand(-1, self.mean.shape[1], -1, -1) - self.mean) / self.std
        return self.maps(prepared.contiguous(memory_format=torch.channels_last))

    @abstractmethod
    def maps(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps of normalised images [B,3,H,W]."""

    @abstractmethod
    def trunk_parameters(self) -> list[nn.Parameter]:
        """Those that start pretrained."""

    def head_parameters(self) -> list[nn.Parameter]:
        """Those of the dataset head."""
        return list(self.dataset_head.parameters())

    def other_parameters(self) -> list[nn.Parameter]:
        """Neither trunk nor dataset head."""
        taken = {id(one) for one in (*self.trunk_parameters(), *self.head_parameters())}
        return [one for one in self.parameters() if id(one) not in taken]


def pixel_head(width: int, outputs: int) -> nn.Sequential:
    """BN-ReLU-1x1 with bias on features [B,width,h,w]; with two outputs the dataset head: 4 width + 2 parameters."""
    return nn.Sequential(nn.BatchNorm2d(width, momentum=0.01), nn.ReLU(), nn.Conv2d(width, outputs, 1))


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [B,n,h,w] at (H, W), bilinear, corners not aligned."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def build_net(name: str, num_classes: int, channels: int, *, pretrained: bool = True) -> SceneNet:
    """A net by name, its new layers drawn from torch's global generator, in channels-last layout.

    Raises:
        UnknownName: no net of that name. BadInput: no class, or a channel count other than 1 or 3.
        DataUnavailable, BadWeights: the trunk's weights are not there or not the measured ones; not with `pretrained`
        false.
    """
    if name not in NETS:
        raise unknown_name("no net of scenes of that name", name, NETS)
    module, _, kind = NETS[name].partition(":")
    net: SceneNet = getattr(import_module(module), kind)(num_classes, channels, pretrained=pretrained)
    # See backbones.Trunk: batch normalisation's backward pass on contiguous activations can be wrong on a CPU.
    return net.to(memory_format=torch.channels_last)


WIDTH = 64
STAGES = (1, 2, 4)  # of the trunk, at strides 4, 8 and 16


class UpBlock(nn.Module):
    """Twice as fine: the coarse feature enlarged, plus the projected skip, then BN-ReLU-3x3."""

    def __init__(self, skip: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(skip, width, 1)
        self.mix = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False))

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """[B,width,h,w] at the skip's size."""
        mixed: Tensor = self.mix(enlarged(coarse, skip.shape[2:]) + self.project(skip))
        return mixed


class MobileSceneNet(SceneNet):
    """`mobile`; .63 M parameters. Contract of xadflow.detectors.dense_hybrid.networks."""

    stride = 16

    def __init__(self, num_classes: int, channels: int, *, pretrained: bool = True) -> None:
        spec = TRUNKS["mobilenet_v2"]
        super().__init__(num_classes, channels, spec.mean, spec.std)
        network = load_network("mobilenet_v2") if pretrained else architecture("mobilenet_v2")
        blocks = list(network.get_submodule("features").children())
        ends = [0, *(spec.blocks[stage] + 1 for stage in STAGES)]
        self.trunk = nn.ModuleList(nn.Sequential(*blocks[a:b]) for a, b in zip(ends, ends[1:], strict=False))
        self.trunk.requires_grad_(True)  # load_network gives them frozen
        finest, middle, coarsest = (spec.channels[stage] for stage in STAGES)
        self.narrow = nn.Conv2d(coarsest, WIDTH, 1)
        self.up = nn.ModuleList([UpBlock(middle, WIDTH), UpBlock(finest, WIDTH)])
        self.class_head = pixel_head(WIDTH, num_classes)
        self.dataset_head = pixel_head(WIDTH, 2)

    def maps(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Both at a quarter of the sides, rounded up."""
        skips, hidden = [], prepared
        for part in self.trunk:
            hidden = part(hidden)
            skips.append(hidden)
        feature = self.narrow(skips.pop())
        for block in self.up:
            feature = block(feature, skips.pop())  # (B, WIDTH, h, w)
        return self.class_head(feature), self.dataset_head(feature)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """MobileNetV2's."""
        return list(self.trunk.parameters())
