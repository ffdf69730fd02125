"""The objectives of the one-class family: what a network's output costs in training, and how anomalous it is.

Sources: HSC, Ruff et al. 2020 (arXiv 2006.00339); DSVDD, Ruff et al., ICML 2018; Deep SAD, Ruff et al., ICLR 2020
(arXiv 1906.02694); BCE and focal loss with outlier exposure, Hendrycks et al., ICLR 2019, Liznerski et al. 2022 (arXiv
2205.11474). Table: fcdd.md, section 1. All in float32 whatever the network's precision, no epsilon inside a logarithm.

Scores are raw: the radius or the logit itself. 1 - exp(-h) and the sigmoid, which the published code ranks by, are 1.0
in float32 from about 17 on and tie every clear anomaly.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.losses import anomaly_term

FLOOR = 1e-6  # of the radius inside the anomaly term while training
NEAREST_CENTRE = 0.1  # a coordinate of DSVDD's centre nearer to 0 is moved away: a trivial solution lies at 0


class Objective(Protocol):
    """One value an image from the network's vectors f [B,d]; anomalies are where `is_anomaly` [B]."""

    def loss(self, f: Tensor, is_anomaly: Tensor) -> Tensor:
        """[B], float32, >= 0."""

    def score(self, f: Tensor) -> Tensor:
        """[B], float32; higher is more anomalous; differentiable."""


class HypersphereClassifier(nn.Module):
    """h = sqrt(|f|^2 + 1) - 1; loss h for normals, -log(1 - exp(-h)) for anomalies; score h."""

    def loss(self, f: Tensor, is_anomaly: Tensor) -> Tensor:
        """[B]."""
        h = self.score(f)
        return torch.where(is_anomaly, anomaly_term(h, FLOOR), h)

    def score(self, f: Tensor) -> Tensor:
        """[B]; written without cancellation near 0."""
        squared = _squared(f)
        return squared / ((squared + 1.0).sqrt() + 1.0)


class DeepSVDD(nn.Module):
    """|f - c|^2 to a centre that is fixed before training; anomalies carry no loss."""

    centre: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(outputs))

    @torch.no_grad()
    def set_centre(self, f: Tensor) -> None:
        """The mean of the untrained network's vectors of all normals [N,d], each coordinate at least .1 from 0.

        A sample mean, where the published code averages the means of unequal batches; a coordinate of exactly 0, which
        it leaves there, becomes +.1.
        """
        mean = f.double().mean(dim=0)
        sign = torch.where(mean < 0, -1.0, 1.0)
        self.centre.copy_(torch.where(mean.abs() < NEAREST_CENTRE, sign * NEAREST_CENTRE, mean))

    def loss(self, f: Tensor, is_anomaly: Tensor) -> Tensor:
        """[B]; 0 for anomalies."""
        return torch.where(is_anomaly, 0.0, self.score(f))

    def score(self, f: Tensor) -> Tensor:
        """[B]."""
        return _squared(f.float() - self.centre)


class DeepSAD(nn.Module):
    """|f|^2 for normals, 1 / |f|^2 for anomalies (centre 0, as in the code of Liznerski et al. 2022); score |f|^2."""

    def loss(self, f: Tensor, is_anomaly: Tensor) -> Tensor:
        """[B]; the inverse is bounded at 1 / FLOOR."""
        squared = _squared(f)
        return torch.where(is_anomaly, 1.0 / (squared + FLOOR), squared)

    def score(self, f: Tensor) -> Tensor:
        """[B]."""
        return _squared(f)


class BinaryCrossEntropy(nn.Module):
    """Logistic loss on the logit z = f[:, 0], anomalies as 1; with `gamma` the focal loss (1 - p_t)^gamma BCE.

    The score is z, not its sigmoid.
    """

    def __init__(self, gamma: float = 0.0) -> None:
        super().__init__()
        self.gamma = gamma

    def loss(self, f: Tensor, is_anomaly: Tensor) -> Tensor:
        """[B]."""
        z = self.score(f)
        margin = torch.where(is_anomaly, z, -z)
        cost = F.softplus(-margin)
        return cost if self.gamma == 0.0 else torch.sigmoid(-margin).pow(self.gamma) * cost

    def score(self, f: Tensor) -> Tensor:
        """[B]."""
        return f[:, 0].float()


def _squared(f: Tensor) -> Tensor:
    return f.float().square().sum(dim=1)
