"""EfficientNet-Lite0, layer by layer (Tan and Le, "EfficientNet", ICML 2019; the Lite form of Google's TPU models).

The reference is timm's `tf_efficientnet_lite0`: names, shapes and order of all tensors are its own, and a test holds
both to the same bits, forwards and backwards. timm itself is not loaded: it brings torchvision and torch's compiler,
which takes each command that opens a detector two seconds of processor time.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

_STEM, _HEAD, _CLASSES = 32, 1280, 1000
# of each stage: kernel, stride of its first block, widening inside a block, channels, blocks (Table 1 of the paper)
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_EPS = 1e-3  # TensorFlow's, which the weights were trained with


class Norm(nn.BatchNorm2d):
    """A batch normalisation and the activation after it."""

    def __init__(self, channels: int, active: bool = True) -> None:
        super().__init__(channels, eps=_EPS)
        self.act: nn.Module = nn.ReLU6(inplace=True) if active else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B,C,u,v] in and out."""
        out: Tensor = self.act(super().forward(input))
        return out


class PaddedSame(nn.Conv2d):
    """A convolution that pads as TensorFlow does ("SAME", Abadi et al., OSDI 2016): an odd pixel goes behind."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B,C,u,v] in, [B,C',ceil(u / stride),ceil(v / stride)] out."""
        padding: list[int] = []
        for side, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            more = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            padding += [more // 2, more - more // 2]
        return F.conv2d(F.pad(input, padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class _Separable(nn.Module):
    """The first block: each channel by itself, then across channels."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = _depthwise(channels, kernel, 1)
        self.bn1 = Norm(channels)
        self.conv_pw = nn.Conv2d(channels, out, 1, bias=False)
        self.bn2 = Norm(out, active=False)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_pw(self.bn1(self.conv_dw(maps))))
        return out


class _Inverted(nn.Module):
    """A block that is wide inside: across channels, each by itself, across channels again."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = channels * widening
        self.conv_pw = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = Norm(wide)
        self.conv_dw = _depthwise(wide, kernel, stride)
        self.bn2 = Norm(wide)
        self.conv_pwl = nn.Conv2d(wide, out, 1, bias=False)
        self.bn3 = Norm(out, active=False)
        self.is_residual = stride == 1 and channels == out

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.bn1(self.conv_pw(maps))
        out = self.bn2(self.conv_dw(out))
        out = self.bn3(self.conv_pwl(out))
        return out + maps if self.is_residual else out


class Lite0(nn.Module):
    """The whole classifier of ImageNet-1k, untrained: float images [B,3,H,W] in, logits [B,1000] out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = PaddedSame(3, _STEM, 3, stride=2, bias=False)
        self.bn1 = Norm(_STEM)
        stages, channels = [], _STEM
        for kernel, first, widening, out, count in _STAGES:
            blocks: list[nn.Module] = []
            for number in range(count):
                stride = first if number == 0 else 1
                if widening == 1:
                    blocks.append(_Separable(channels, out, kernel))
                else:
                    blocks.append(_Inverted(channels, out, kernel, stride, widening))
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, _HEAD, 1, bias=False)
        self.bn2 = Norm(_HEAD)
        self.classifier = nn.Linear(_HEAD, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B,1000] of images [B,3,H,W]."""
        maps = self.bn2(self.conv_head(self.blocks(self.bn1(self.conv_stem(images)))))
        out: Tensor = self.classifier(F.adaptive_avg_pool2d(maps, 1).flatten(1))
        return out


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return PaddedSame(channels, channels, kernel, stride, groups=channels, bias=False)
