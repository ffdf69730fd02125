"""The light net: MobileNetV2 down to 1/16, two up-blocks with skips, both heads on the feature at 1/4. For a CPU.

    features[0:14]  ->  24 @ /4,  32 @ /8,  96 @ /16  ->  1x1 to 64  ->  up with /8  ->  up with /4  ->  heads

The ladder is that of Ladder-DenseNet (arXiv 1905.05661), narrowed. Weights of the trunk: see backbones.py,
BSD-3-Clause.
"""

from __future__ import annotations

from torch import Tensor, nn

from xadflow.detectors.dense_hybrid.networks import SceneNet, enlarged, pixel_head
from xadflow.networks.pretrained import TRUNKS, architecture, load_network

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
