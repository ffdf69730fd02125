"""The first steps of a network as a detector's own: cut, partly frozen, with a head for one response a cell or a
vector.

FCDD's VGG, VGG_F and VGG_NOPT are torchvision's vgg11_bn up to `features[0:21]` with one 1x1 convolution (fcdd.md,
section 3); VGG_F does not train `features[0:15]`. The published code leaves batch normalisation of the frozen part in
training mode, so that its statistics drift with every batch of normals and anomalies (section 6.4); here they stay
unless told otherwise. The vector twins pool the last map to its mean and end in one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from xadflow.errors import BadWeights
from xadflow.networks.cut_settings import TrunkSettings
from xadflow.networks.outline import outline, steps
from xadflow.networks.receptive_fields import measured_fields
from xadflow.networks.upsampling import Field

OUTPUTS = 64  # of a vector twin, as the paper's own networks have
SIGMA_PER_STRIDE = 1.5  # published: 12 px at stride 8
_COUNTER = "num_batches_tracked"  # of batch normalisation; older files do not have it, and nothing here reads it


class CutTrunk(nn.Module):
    """Steps of a network up to a cut, untrained; the first `frozen` of them are never trained.

    Their parameters ask for no gradient, and with `freeze_bn` these steps stay in evaluation mode.
    """

    def __init__(self, network: str, settings: TrunkSettings) -> None:
        super().__init__()
        self.network, self.freeze_bn = network, settings.freeze_bn
        cut, self.frozen = settings.steps(network)
        named = steps(network, cut)
        self.names = [name for name, _ in named]
        self.steps = nn.Sequential(*(step for _, step in named))
        self.channels = outline(network).channels[cut - 1]
        self.requires_grad_(True)
        self.steps[: self.frozen].requires_grad_(False)

    def train(self, mode: bool = True) -> CutTrunk:
        """Training mode for what is not frozen."""
        super().train(mode)
        if self.freeze_bn:
            self.steps[: self.frozen].train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Prepared images [B,1|3,H,W] to features [B,channels,u,v]; one channel is seen as three equal ones."""
        inputs = images.expand(-1, 3, -1, -1)
        # See backbones.Trunk: batch normalisation's backward pass on contiguous activations can be wrong on a CPU.
        features: Tensor = self.steps(inputs.contiguous(memory_format=torch.channels_last))
        return features

    def without_biases(self) -> CutTrunk:
        """No bias is learned: they are 0, and stay what they are once weights are loaded. DSVDD asks for it."""
        for name, parameter in self.named_parameters():
            if name.rpartition(".")[2] == "bias":
                nn.init.zeros_(parameter)
                parameter.requires_grad_(False)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by their names in the whole network."""
        return {
            f"{name}.{key}": value
            for name, step in zip(self.names, self.steps, strict=True)
            for key, value in step.state_dict().items()
        }

    @torch.no_grad()
    def take(self, given: Mapping[str, Tensor]) -> None:
        """Weights by the names of the whole network. Raises BadWeights for one that is missing or unfit, and takes
        nothing.
        """
        own = self.tensors()
        needed = {key: value for key, value in own.items() if key in given or not key.endswith(_COUNTER)}
        odd = [key for key, value in needed.items() if key not in given or given[key].shape != value.shape]
        if odd:
            raise BadWeights(
                "the weights do not fit the trunk",
                seen=f"{self.network}: {len(odd)} missing or of another shape: {', '.join(odd[:3])}",
                next_step="save torchvision's own state_dict() of that network by safetensors",
            )
        if not all(bool(given[key].isfinite().all()) for key in needed):
            raise BadWeights(
                "a weight of the trunk is no number", seen=self.network, next_step="take another file of weights"
            )
        for key, value in needed.items():
            value.copy_(given[key])


@cache
def trunk_fields(network: str, cut: int, height: int, width: int) -> tuple[Field, Field]:
    """Receptive fields of the cells along rows and columns. Raises BadInput for images that are too small."""
    chain = nn.Sequential(*(step for _, step in steps(network, cut, empty=True)))
    return measured_fields(chain, height, width)


def dense_trunk(network: str, settings: TrunkSettings) -> nn.Sequential:
    """Images to one response a cell, [B,1,u,v]."""
    trunk = CutTrunk(network, settings)
    return nn.Sequential(trunk, nn.Conv2d(trunk.channels, 1, 1))


def vector_trunk(network: str, settings: TrunkSettings, outputs: int | None, *, bias: bool = True) -> nn.Sequential:
    """Images to vectors [B,d], d = 64 or `outputs`; without `bias` nothing learns one."""
    trunk = CutTrunk(network, settings)
    if not bias:
        trunk.without_biases()
    return nn.Sequential(
        trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(trunk.channels, outputs or OUTPUTS, bias=bias)
    )
