"""Heads on frozen features: a grid of feature vectors in, a low-resolution anomaly map A >= 0 out.

`MahalanobisHead` is named for what it is: an FCDD objective on a learned Mahalanobis head. It starts as PaDiM (Defard
et al., 2021: one Gaussian of normal features a location) and learns channel weights and a low-rank correction under
FCDD's loss. `ScalarHead` is the published form: 1x1 convolutions to one response a location. Neither has a centre
parameter: pseudo-Huber of the response is the map (FCDD, equation 2). Recipe: docs/explanation/methods.md, "Solar
cells".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from xadflow.detectors.fcdd.settings import FCDDSettings
from xadflow.detectors.losses import pseudo_huber
from xadflow.detectors.saved import check_tensors

_INVERSE = "whitening.inverse"
_BATCH = 128  # feature maps whitened at once: P x C float32 each


class HeatmapHead(nn.Module):
    """Features [B,C,u,v] to the low-resolution map A [B,P]: whitening, fitted on normals, then a learned response."""

    def __init__(self, settings: FCDDSettings, whitening: Whitening, generator: Generator) -> None:
        super().__init__()
        s, channels = settings, len(whitening.mean)
        self.whitening = whitening
        self.response: nn.Module = (
            MahalanobisHead(channels, s.outputs, generator)
            if s.head == "mahalanobis"
            else ScalarHead(channels, s.hidden, generator)
        )

    def forward(self, features: Tensor) -> Tensor:
        """A [B,P] >= 0, float32, P = u * v cells row by row."""
        maps: Tensor = self.response(self.whitening(features))
        return maps

    def packed(self) -> dict[str, Tensor]:
        """State for storage: of each triangular matrix only the half that is not zero."""
        state = dict(self.state_dict())
        if (inverse := state.pop(_INVERSE, None)) is not None:
            rows, columns = torch.tril_indices(*inverse.shape[1:], device=inverse.device)
            state[_INVERSE] = inverse[:, rows, columns]
        return state

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what :meth:`packed` gave. Raises BadWeights when names or shapes do not fit."""
        own, given = self.packed(), dict(tensors)
        check_tensors(own, given)
        if _INVERSE in given:
            full = torch.zeros_like(self.whitening.inverse)
            rows, columns = torch.tril_indices(*full.shape[1:])
            full[:, rows, columns] = given[_INVERSE]
            given[_INVERSE] = full
        self.load_state_dict(given, strict=True)


class Whitening(nn.Module):
    """Normal statistics of features: standardise each channel, then decorrelate the channels of each location.

    z = L^-1 (s - m) with s the channel-standardised features, m their mean at the location and L the Cholesky factor of
    their covariance there + `floor` * I. The covariance is shrunk towards the one pooled over all locations by
    `shrinkage`; None means 0 with more images than channels, else 1, since fewer images leave a location's own
    covariance without full rank and the whitened scores of new normals far above those of the fitted ones. With scope
    "channel" only the standardisation is done.
    """

    mean: Tensor
    scale: Tensor
    location_mean: Tensor
    inverse: Tensor

    def __init__(self, channels: int, grid: tuple[int, int], scope: str, floor: float, shrinkage: float | None) -> None:
        super().__init__()
        self.scope, self.floor, self.shrinkage = scope, floor, shrinkage
        cells = grid[0] * grid[1]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        if scope == "location":
            self.register_buffer("location_mean", torch.zeros(cells, channels))
            self.register_buffer("inverse", torch.eye(channels).repeat(cells, 1, 1))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take the statistics of normal features [N,C,u,v] (any float dtype; N of at least 2)."""
        cells = features.flatten(2).permute(2, 0, 1).contiguous()  # (P, N, C), each location read in one piece
        count = cells.shape[0] * cells.shape[1]
        mean = torch.stack([cell.double().sum(dim=0) for cell in cells]).sum(dim=0) / count
        squares = torch.stack([(cell.double() - mean).square().sum(dim=0) for cell in cells]).sum(dim=0)
        scale = (squares / count).sqrt().clamp_min(1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        if self.scope == "channel":
            return
        identity = torch.eye(len(self.mean), device=cells.device)
        pooled = torch.zeros_like(identity)
        for position, cell in enumerate(cells):  # one location at a time: P x C x C is all that is held
            standard = (cell.float() - self.mean) / self.scale  # (N, C)
            self.location_mean[position] = standard.mean(dim=0)
            centred = standard - self.location_mean[position]
            self.inverse[position] = centred.T @ centred / (len(cell) - 1)
            pooled += self.inverse[position] / len(cells)
        own = float(cells.shape[1] > cells.shape[2]) if self.shrinkage is None else 1.0 - self.shrinkage
        for position in range(len(cells)):
            covariance = own * self.inverse[position] + (1.0 - own) * pooled
            factor = torch.linalg.cholesky(covariance + self.floor * identity)
            self.inverse[position] = torch.linalg.solve_triangular(factor, identity, upper=False)

    @torch.no_grad()
    def in_half(self, features: Tensor) -> Tensor:
        """z of a whole cache [N,C,u,v], float16 [N,P,C], in batches."""
        size = (len(features), features.shape[2] * features.shape[3], features.shape[1])
        z = torch.empty(size, dtype=torch.float16, device=features.device)
        for start in range(0, len(features), _BATCH):
            z[start : start + _BATCH] = self(features[start : start + _BATCH])
        return z

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,u,v] to z [B,P,C], float32, P = u * v locations row by row."""
        cells = (features.flatten(2).transpose(1, 2).float() - self.mean) / self.scale  # (B, P, C)
        if self.scope == "channel":
            return cells
        # Contiguous: the batched product is 12 times slower on a transposed view (measured, CPU).
        centred = (cells - self.location_mean).transpose(0, 1).contiguous()  # (P, B, C)
        return (centred @ self.inverse.transpose(1, 2)).transpose(0, 1)  # (B, P, C)


class MahalanobisHead(nn.Module):
    """d = sqrt(mean_c w_c^2 z_c^2 + ||V z + b||^2 / K + 1e-6), phi = e^a softplus(4 (d - t)), A = pseudo_huber(phi).

    z is whitened, K the `outputs` of V. At w = 1, V small, it ranks as the Mahalanobis distance of the location.
    """

    def __init__(self, channels: int, outputs: int, generator: Generator) -> None:
        super().__init__()
        self.channel_weight = nn.Parameter(torch.ones(channels))
        start = torch.randn(outputs, channels, generator=generator) * (0.1 / math.sqrt(channels))
        self.projection = nn.Parameter(start)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.log_gain = nn.Parameter(torch.zeros(()))
        self.offset = nn.Parameter(torch.tensor(1.3))

    def forward(self, z: Tensor, kept: Tensor | None = None) -> Tensor:
        """A [B,P], float32. With `kept` [B,C] of :func:`kept_channels`, training: dropout on the channels of z.

        Dropout is folded into the weights of each image, so that z is read twice and never copied.
        """
        weight, projection = self.channel_weight, self.projection.T  # (C,), (C, K)
        if kept is None:
            weighted = z.square() @ weight.square()
            learned = z @ projection + self.bias
        else:
            weighted = (z.square() @ (weight * kept).square()[..., None]).squeeze(-1)
            learned = z @ (projection * kept[..., None]) + self.bias  # (B, P, K)
        distance = (weighted.float() / z.shape[-1] + learned.float().square().mean(dim=-1) + 1e-6).sqrt()
        response = self.log_gain.exp() * F.softplus(4.0 * (distance - self.offset))
        return pseudo_huber(response)


class ScalarHead(nn.Module):
    """The published head: 1x1 convolution to `hidden` channels, leaky ReLU, 1x1 convolution to one response phi.

    `hidden` = 0 is a single 1x1 convolution.
    """

    def __init__(self, channels: int, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.hidden = hidden
        last = hidden or channels
        if hidden:
            bound = math.sqrt(6.0 / channels)
            first = (2.0 * torch.rand(hidden, channels, generator=generator) - 1.0) * bound
            self.first_weight, self.first_bias = nn.Parameter(first), nn.Parameter(torch.zeros(hidden))
        self.last_weight = nn.Parameter(torch.randn(1, last, generator=generator) / math.sqrt(last))
        self.last_bias = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, kept: Tensor | None = None) -> Tensor:
        """A [B,P], float32. With `kept` [B,C] of :func:`kept_channels`, training: dropout on the channels of z."""
        if kept is not None:
            z = z * kept[:, None]
        if self.hidden:
            z = F.leaky_relu(F.linear(z, self.first_weight, self.first_bias), 0.01)
        return pseudo_huber(F.linear(z, self.last_weight, self.last_bias).squeeze(-1))


def kept_channels(count: int, channels: int, dropout: float, generator: Generator) -> Tensor:
    """Dropout's factor for each image and channel, [B,C]: 0, or 1 / (1 - dropout); one draw for all locations."""
    kept = torch.rand(count, channels, generator=generator, device=generator.device) >= dropout
    return kept / (1.0 - dropout)
