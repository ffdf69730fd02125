"""DeepLabV3+ with the dataset head of DenseHybrid, on a dilated ResNet of torchvision.

    trunk  ->  2048 @ /8  ->  five branches of 256: 1x1, 3x3 dilated by 12, 24, 36, image mean  ->  1x1 to 256, bare
    ->  /4, corners aligned  ->  beside 1x1(256 @ /4) to 48: `dec0`, 304
    class head on dec0: 3x3 BN ReLU, 3x3 BN ReLU, 1x1 without bias; dataset head on dec0: BN-ReLU-1x1, 1,218 parameters

Chen et al., ECCV 2018, arXiv 1802.02611; with the dataset head Grcić et al., ECCV 2022, arXiv 2207.02606
(dense-hybrid.md, section 1; the official code is GPL-2, reimplemented from that description). Different: the published
trunk is WideResNet-38, of which there is neither a package nor a torchvision model; wide_resnet50_2 is the nearest. Its
dec0 is at 1/2, where a ResNet has one convolution alone, so here it is at 1/4, as in the DeepLab paper. No package
carries ImageNet weights of these trunks, so they start untrained, or from a file of the project by
`trunk_weights.pretrain`.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.dense_hybrid.networks import SceneNet, pixel_head
from xadflow.networks.cut import CutTrunk
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.outline import IMAGENET, TORCHVISION

log = logging.getLogger(__name__)

RATES = (12, 24, 36)
WIDTH, FINE = 256, 48
FINE_INPUTS = 256  # channels of `layer1`


class DeepLabV3Plus(SceneNet):
    """`deeplab_resnet50`; contract of xadflow.detectors.dense_hybrid.networks. In training a batch of one is refused.

    `pretrained` is answered by a warning.
    """

    stride = 8
    network: ClassVar[str] = "resnet50"

    def __init__(self, num_classes: int, channels: int, *, pretrained: bool = True) -> None:
        super().__init__(num_classes, channels, *IMAGENET)
        if pretrained:
            log.warning("no package carries weights of %s: the trunk starts untrained", self.network)
        self.trunk = CutTrunk(TORCHVISION + self.network, TrunkSettings(cut="layer4"))
        _dilate(self._step("layer3"), first=1, rest=2)
        _dilate(self._step("layer4"), first=2, rest=4)
        self.aspp = SpatialPyramid(self.trunk.channels)
        self.fine = nn.Conv2d(FINE_INPUTS, FINE, 1, bias=False)
        self.class_head = nn.Sequential(
            *_conv_bn_relu(WIDTH + FINE, WIDTH, 3),
            *_conv_bn_relu(WIDTH, WIDTH, 3),
            nn.Conv2d(WIDTH, num_classes, 1, bias=False),
        )
        self.dataset_head = pixel_head(WIDTH + FINE, 2)

    def maps(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Both at a quarter of the sides, rounded up."""
        hidden = prepared
        for name, step in zip(self.trunk.names, self.trunk.steps, strict=True):
            hidden = step(hidden)
            if name == "layer1":
                fine = self.fine(hidden)  # (B, 48, H/4, W/4)
        coarse = F.interpolate(self.aspp(hidden), size=fine.shape[2:], mode="bilinear", align_corners=True)
        dec0 = torch.cat([fine, coarse], dim=1)  # (B, 304, H/4, W/4)
        return self.class_head(dec0), self.dataset_head(dec0)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """The ResNet's."""
        return list(self.trunk.parameters())

    def _step(self, name: str) -> nn.Module:
        return self.trunk.steps[self.trunk.names.index(name)]


class DeepLabResNet101(DeepLabV3Plus):
    """`deeplab_resnet101`."""

    network = "resnet101"


class DeepLabWideResNet50(DeepLabV3Plus):
    """`deeplab_wide_resnet50_2`, the nearest there is to the published WideResNet-38."""

    network = "wide_resnet50_2"


class SpatialPyramid(nn.Module):
    """Atrous spatial pyramid pooling: four convolutions and the image mean, 256 channels each, then 1x1 to
    256, bare.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        kernels = [(1, 1), *((3, rate) for rate in RATES)]
        self.branches = nn.ModuleList(nn.Sequential(*_conv_bn_relu(inputs, WIDTH, *kernel)) for kernel in kernels)
        self.image = nn.Sequential(*_conv_bn_relu(inputs, WIDTH, 1))
        self.narrow = nn.Conv2d(WIDTH * (len(kernels) + 1), WIDTH, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """[B,inputs,h,w] to [B,256,h,w]."""
        mean = self.image(maps.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *maps.shape[2:])
        narrowed: Tensor = self.narrow(torch.cat([*(branch(maps) for branch in self.branches), mean], dim=1))
        return narrowed


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()


def _dilate(layer: nn.Module, *, first: int, rest: int) -> None:
    """Dilation for the stride of a stage of bottlenecks, as torchvision's `replace_stride_with_dilation` builds it."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    for place, block in enumerate(layer.children()):
        middle, dilation = block.get_submodule("conv2"), first if place == 0 else rest
        for key in ("dilation", "padding"):
            setattr(middle, key, (dilation, dilation))
