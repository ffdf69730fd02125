"""The objectives of the one-class family: what a network's output costs in training, and how anomalous it is.

Sources: HSC, Ruff et al. 2020 (arXiv 2006.00339); DSVDD, Ruff et al., ICML 2018; Deep SAD, Ruff et al., ICLR 2020
(arXiv 1906.02694); BCE and focal loss with outlier exposure, Hendrycks et al., ICLR 2019, Liznerski et al. 2022 (arXiv
2205.11474). Table: docs/explanation/methods.md, "FCDD". All in float32 whatever the network's precision, no epsilon
inside a logarithm.

Scores are raw: the radius or the logit itself. 1 - exp(-h) and the sigmoid, which the published code ranks by, are 1.0
in float32 from about 17 on and tie every clear anomaly.

From a network's output to loss, image score and heatmap: a dense map, a vector, or a reconstruction.

Each is a module whose `forward` takes plain images [B,C,H,W] in [0,1]; the other methods take what it gave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xadflow.detectors.losses import anomaly_term, image_level_loss, pixel_level_loss, pseudo_huber
from xadflow.detectors.one_class.exposure import Batch
from xadflow.detectors.one_class.inputs import preparation
from xadflow.detectors.one_class.settings import DenseSettings, OneClassSettings
from xadflow.errors import BadSettings
from xadflow.networks.designs import Design
from xadflow.networks.published import Autoencoder
from xadflow.networks.upsampling import Field, GaussianUpsampling, gaussian_matrix

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


class Response(nn.Module, ABC):
    """Preparation and network of one input shape (C, H, W)."""

    def __init__(self, network: str, shape: tuple[int, int, int], settings: OneClassSettings) -> None:
        super().__init__()
        self.design = Design(network, shape, settings.trunk)
        self.prepare = preparation(settings.preparation, shape[0], self.design.statistics)
        self.fields = self.design.fields

    @abstractmethod
    def losses(self, output: Tensor, batch: Batch) -> Tensor:
        """[B] float32."""

    @abstractmethod
    def image_score(self, output: Tensor) -> Tensor:
        """[B] float32."""

    @abstractmethod
    def heatmap(self, images: Tensor, output: Tensor) -> Tensor:
        """[B,H,W] float32 at input resolution; `output` is what `images` gave."""


class DenseResponse(Response):
    """FCDD: pseudo-Huber of one response a cell; score its mean, heatmap its Gaussian upsampling."""

    def __init__(self, network: str, shape: tuple[int, int, int], settings: DenseSettings) -> None:
        super().__init__(network, shape, settings)
        self.settings = settings
        self.network = self.design.dense()
        sigma = settings.sigma_px or self.design.sigma_px
        rows, columns = (
            gaussian_matrix(
                size,
                field.cells,
                stride=field.stride,
                start=field.start,
                extent=extent,
                sigma=sigma,
                dtype=torch.float32,
            )
            for size, field, extent in zip(shape[1:], self.fields, self.design.extents, strict=True)
        )
        self.upsampling = GaussianUpsampling(rows, columns, settings.upsampling)
        if settings.upsampling != "none" and not bool((self.upsampling.gain() > 0).all()):
            raise BadSettings(
                "sigma_px is so small that some pixels get no heat from any cell",
                seen=sigma,
                next_step=f"raise it: the cells of {network} are {self.fields[0].stride} px apart",
            )

    def forward(self, images: Tensor) -> Tensor:
        """A [B,u,v] >= 0."""
        return pseudo_huber(self.network(self.prepare(images)).squeeze(1))

    def losses(self, output: Tensor, batch: Batch) -> Tensor:
        """[B]."""
        s = self.settings
        if s.level == "image":
            return image_level_loss(output.mean(dim=(1, 2)), batch.is_anomaly, FLOOR)
        return pixel_level_loss(self.upsampling(output), batch.masks, s.defect_area, FLOOR)

    def image_score(self, output: Tensor) -> Tensor:
        """[B], the mean of the low-resolution map."""
        return output.mean(dim=(1, 2))

    def heatmap(self, images: Tensor, output: Tensor) -> Tensor:
        """[B,H,W]; differentiable."""
        return cast(Tensor, self.upsampling(output))


class VectorResponse(Response):
    """A vector an image under an objective; the heatmap is the gradient of the score.

    |d score / d x| summed over channels (Simonyan et al., 2014), blurred by a Gaussian of the dense twin's receptive
    field (r - 1 if even) and sigma, as in the FCDD paper's comparison. Not differentiable itself.
    """

    def __init__(
        self,
        network: str,
        shape: tuple[int, int, int],
        objective: nn.Module,
        settings: OneClassSettings,
        outputs: int | None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(network, shape, settings)
        self.network = self.design.vector(outputs, bias=bias)
        self.objective = objective
        self.blur = blur_over(shape[1:], self.fields, self.design.sigma_px)

    def forward(self, images: Tensor) -> Tensor:
        """f [B,d], float32."""
        return cast(Tensor, self.network(self.prepare(images)).float())

    def losses(self, output: Tensor, batch: Batch) -> Tensor:
        """[B]."""
        return cast(Objective, self.objective).loss(output, batch.is_anomaly)

    def image_score(self, output: Tensor) -> Tensor:
        """[B]."""
        return cast(Objective, self.objective).score(output)

    def heatmap(self, images: Tensor, output: Tensor) -> Tensor:
        """[B,H,W], detached; one more pass through the network."""
        with torch.enable_grad():
            inputs = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.image_score(self(inputs)).sum(), inputs)
        return cast(Tensor, self.blur(gradient.abs().sum(dim=1)))


class ReconstructionResponse(Response):
    """An autoencoder on prepared images: squared error, its mean as the score, its blurred channel mean as the map."""

    def __init__(self, network: str, shape: tuple[int, int, int], settings: OneClassSettings) -> None:
        super().__init__(network, shape, settings)
        self.network = Autoencoder(network, shape)
        self.blur = blur_over(shape[1:], self.fields, self.design.sigma_px)

    def forward(self, images: Tensor) -> Tensor:
        """Squared error [B,C,H,W], float32."""
        prepared = self.prepare(images)
        return cast(Tensor, (self.network(prepared).float() - prepared).square())

    def losses(self, output: Tensor, batch: Batch) -> Tensor:
        """[B]; 0 for anomalies, of which this method learns nothing."""
        return torch.where(batch.is_anomaly, 0.0, self.image_score(output))

    def image_score(self, output: Tensor) -> Tensor:
        """[B]."""
        return output.mean(dim=(1, 2, 3))

    def heatmap(self, images: Tensor, output: Tensor) -> Tensor:
        """[B,H,W]; differentiable."""
        return cast(Tensor, self.blur(output.mean(dim=1)))


def blur_over(size: tuple[int, int], fields: tuple[Field, Field], sigma_px: float) -> GaussianUpsampling:
    """A Gaussian blur [B,H,W] to [B,H,W] that keeps a constant map constant, cut at the (odd) receptive field."""
    rows, columns = (
        gaussian_matrix(
            side,
            side,
            stride=1,
            start=0.0,
            extent=field.extent - (field.extent + 1) % 2,
            sigma=sigma_px,
            dtype=torch.float32,
        )
        for side, field in zip(size, fields, strict=True)
    )
    return GaussianUpsampling(rows, columns, "coverage")
