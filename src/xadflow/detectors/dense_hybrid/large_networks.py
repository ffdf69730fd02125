"""The large nets of scenes, for a GPU.

Ladder-DenseNet-121: the published net of DenseHybrid, both heads on the feature at 1/4.

    DenseNet-121  ->  256 @ /4,  512 @ /8,  1024 @ /16,  1024 @ /32  ->  pyramid pooling to 512
    ->  up with /16 to 256  ->  up with /8 to 256  ->  up with /4 to 128  ->  heads, BN-ReLU-1x1 (514 parameters for
    d_in/d_out)

Krešo et al., arXiv 1905.05661; with the dataset head Grcić et al., ECCV 2022, arXiv 2207.02606 (dense-hybrid.md,
section 1; matejgrcic/DenseHybrid is GPL-2, reimplemented from that description). Different: images are normalised by
ImageNet's statistics (the public scripts feed [0,1] although their trunk is ImageNet's), and pooling rounds up, so that
no row of an odd size is unseen. No package carries DenseNet-121's ImageNet weights, so the trunk starts untrained, or
from a file of the project by `weight_files.pretrain`.

DeepLabV3+ with the dataset head of DenseHybrid, on a dilated ResNet of torchvision.

    trunk  ->  2048 @ /8  ->  five branches of 256: 1x1, 3x3 dilated by 12, 24, 36, image mean  ->  1x1 to 256, bare
    ->  /4, corners aligned  ->  beside 1x1(256 @ /4) to 48: `dec0`, 304
    class head on dec0: 3x3 BN ReLU, 3x3 BN ReLU, 1x1 without bias; dataset head on dec0: BN-ReLU-1x1, 1,218 parameters

Chen et al., ECCV 2018, arXiv 1802.02611; with the dataset head Grcić et al., ECCV 2022, arXiv 2207.02606
(docs/explanation/methods.md, "DenseHybrid"; the official code is GPL-2, reimplemented from that description).
Different: the published trunk is WideResNet-38, of which there is neither a package nor a torchvision model;
wide_resnet50_2 is the nearest. Its dec0 is at 1/2, where a ResNet has one convolution alone, so here it is at 1/4, as
in the DeepLab paper. No package carries ImageNet weights of these trunks, so they start untrained, or from a file of
the project by `weight_files.pretrain`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xadflow.detectors.dense_hybrid.networks import SceneNet, enlarged, pixel_head
from xadflow.networks.cut import CutTrunk
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.outline import IMAGENET, TORCHVISION

log = logging.getLogger(__name__)

NETWORK = "torchvision:densenet121"
GRIDS = (8, 4, 2, 1)  # rows of the pyramid's grids
BOTTLENECK, LEVEL = 512, 128
SKIPS = (1024, 512, 256)  # channels of the dense blocks at /16, /8 and /4
WIDTHS = (256, 256, 128)
MOMENTUM = 0.01  # of every batch normalisation


def bn_relu_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Of the same size, without bias."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(nn.BatchNorm2d(inputs, momentum=MOMENTUM), nn.ReLU(), conv)


class PyramidPooling(nn.Module):
    """What lies in the wider neighbourhood: means over grids of 8, 4, 2 and 1 rows, with as many columns as the aspect
    asks.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.bottleneck = bn_relu_conv(inputs, BOTTLENECK, 1)
        self.levels = nn.ModuleList(bn_relu_conv(BOTTLENECK, LEVEL, 1) for _ in GRIDS)
        self.fuse = bn_relu_conv(BOTTLENECK + LEVEL * len(GRIDS), BOTTLENECK, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """[B,inputs,h,w] to [B,512,h,w]. In training a batch of one square image is refused: its last level has one
        value.
        """
        narrow = self.bottleneck(maps)
        height, width = narrow.shape[2:]
        found = [narrow]
        for rows, level in zip(GRIDS, self.levels, strict=True):
            grid = (rows, max(1, round(rows * width / height)))
            found.append(enlarged(level(F.adaptive_avg_pool2d(narrow, grid)), (height, width)))
        fused: Tensor = self.fuse(torch.cat(found, dim=1))
        return fused


class LadderStep(nn.Module):
    """Twice as fine: the coarse feature enlarged, plus the skip by BN-ReLU-1x1, then BN-ReLU-3x3."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.project = bn_relu_conv(skip, inputs, 1)
        self.mix = bn_relu_conv(inputs, outputs, 3)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """[B,outputs,h,w] at the skip's size."""
        mixed: Tensor = self.mix(enlarged(coarse, skip.shape[2:]) + self.project(skip))
        return mixed


class LadderDenseNet(SceneNet):
    """`ladder_densenet121`; contract of xadflow.detectors.dense_hybrid.networks.

    With `checkpointing` a training keeps only what each dense layer gives and computes its inside twice, as published:
    less memory for about a third more time. Gradients and running statistics are the same. `pretrained` is answered by
    a warning.
    """

    stride = 32

    def __init__(
        self, num_classes: int, channels: int, *, pretrained: bool = True, checkpointing: bool = False
    ) -> None:
        super().__init__(num_classes, channels, *IMAGENET)
        if pretrained:
            log.warning("no package carries weights of %s: the trunk starts untrained", NETWORK)
        self.checkpointing = checkpointing
        self.trunk = CutTrunk(NETWORK, TrunkSettings(cut="features.denseblock4"))
        for place, name in enumerate(self.trunk.names):
            step = self.trunk.steps[place]
            if name.endswith("pool0"):
                self.trunk.steps[place] = nn.MaxPool2d(2, ceil_mode=True)  # torchvision's is 3x3; the published 2x2
            elif "transition" in name:
                step.pool = nn.AvgPool2d(2, ceil_mode=True)
        for module in self.trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        self.pool = PyramidPooling(self.trunk.channels)
        self.up = nn.ModuleList(map(LadderStep, (BOTTLENECK, *WIDTHS), SKIPS, WIDTHS))
        self.class_head = pixel_head(WIDTHS[-1], num_classes)
        self.dataset_head = pixel_head(WIDTHS[-1], 2)

    def maps(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Both at a quarter of the sides, rounded up."""
        skips, hidden = [], prepared
        for name, step in zip(self.trunk.names, self.trunk.steps, strict=True):
            if "denseblock" in name:
                hidden = self._dense_block(step, hidden)
                skips.append(hidden)
            else:
                hidden = step(hidden)
        feature = self.pool(skips.pop())
        for block in self.up:
            feature = block(feature, skips.pop())
        return self.class_head(feature), self.dataset_head(feature)

    def trunk_parameters(self) -> list[nn.Parameter]:
        """DenseNet-121's."""
        return list(self.trunk.parameters())

    def _dense_block(self, block: nn.Module, maps: Tensor) -> Tensor:
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            whole: Tensor = block(maps)
            return whole
        found = [maps]
        for layer in block.children():
            found.append(
                checkpoint(
                    _of_several(layer),
                    *found,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=_counted_once(layer),
                )
            )
        return torch.cat(found, dim=1)


def _of_several(layer: nn.Module) -> Callable[..., Tensor]:
    def run(*maps: Tensor) -> Tensor:
        found: Tensor = layer(list(maps))
        return found

    return run


def _counted_once(layer: nn.Module) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """Contexts of the first pass and of the second, in which batch normalisation must not learn its batch again."""
    return lambda: (nullcontext(), _statistics_kept(layer))


@contextmanager
def _statistics_kept(layer: nn.Module) -> Iterator[None]:
    """Without momentum a batch leaves running statistics what they are; the counter is put back."""
    norms = [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counted = [counter.clone() for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm in norms:
            norm.momentum = MOMENTUM
        for counter, before in zip(counters, counted, strict=True):
            counter.copy_(before)


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
