"""What is done to an image before a network. Differentiable, and inside the detector: callers give plain images.

contrast    as published (docs/explanation/methods.md, "FCDD"): x - mean, over the mean absolute value of that, each
            image for itself; then every channel is mapped so that the train normals fill [0,1]. Brightness and contrast
            are gone.
standard    (x - mean) / standard deviation of each channel over the train normals. Brightness and contrast stay.
pretrained  (x - mean) / standard deviation of each channel of the images that a trunk's weights were trained with. A
            grey image becomes three channels.

Training against the worst image nearby, so that what changes a score is what a person could see.

    min  E_normal max_{|d|_2 <= e1} loss(f(x + d), normal)  +  weight E_anomaly max_{|d|_2 <= e2} loss(f(x + d),
         anomalous)

Source: RATIO (Augustin et al., ECCV 2020, arXiv 2003.09461): a robust term on the data, and one on the outliers that
keeps confidence low around them. Its losses are a classifier's; here they are those of the one-class family. The inner
maximum is searched by projected gradient steps of fixed length in the l2 ball and the pixel box (Madry et al., ICLR
2018), from the image itself or, with `random_start`, from a point of the ball that the step's own generator draws:
either way a training that was killed goes on exactly.

The search looks at the network in evaluation mode, as it will serve: running statistics do not move, and an image's
worst neighbour does not depend on its batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from xadflow.errors import BadSettings
from xadflow.images import as_float
from xadflow.settings.of_methods import MethodSettings

Preparation = Literal["contrast", "standard", "pretrained"]

FLAT = 1e-3  # mean absolute contrast, of a range of 1: below it an image counts as flat and stays (nearly) 0


class ContrastNormalisation(nn.Module):
    """Images [B,C,H,W] in [0,1] to the network's input, same shape; `fit` takes the scale from train normals."""

    low: Tensor
    span: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(channels, 1, 1))
        self.register_buffer("span", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, normals: Tensor, batch_size: int) -> None:
        """Take each channel's least and greatest normalised value over uint8 normals [N,C,H,W]."""
        lows, highs = [], []
        for batch in torch.split(normals, batch_size):
            normalised = _contrast(as_float(batch))
            lows.append(normalised.amin(dim=(0, 2, 3)))
            highs.append(normalised.amax(dim=(0, 2, 3)))
        low, high = torch.stack(lows).amin(dim=0), torch.stack(highs).amax(dim=0)
        self.low.copy_(low.view(-1, 1, 1))
        self.span.copy_((high - low).clamp_min(FLAT).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Same shape, float32."""
        return (_contrast(images) - self.low) / self.span


class Standardisation(nn.Module):
    """Images [B,C,H,W] in [0,1] to the network's input, same shape; `fit` takes mean and deviation from
    train normals.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, normals: Tensor, batch_size: int) -> None:
        """Take the statistics of each channel over uint8 normals [N,C,H,W], summed in float64."""
        batches = torch.split(normals, batch_size)
        pixels = normals[:, 0].numel()
        mean = torch.stack([as_float(batch).double().sum(dim=(0, 2, 3)) for batch in batches]).sum(dim=0) / pixels
        centred = (as_float(batch).double() - mean.view(-1, 1, 1) for batch in batches)
        variance = torch.stack([each.square().sum(dim=(0, 2, 3)) for each in centred]).sum(dim=0) / pixels
        self.mean.copy_(mean.view(-1, 1, 1))
        self.deviation.copy_(variance.sqrt().clamp_min(FLAT).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Same shape, float32."""
        return (images - self.mean) / self.deviation


class FixedStandardisation(nn.Module):
    """Images [B,1|3,H,W] in [0,1] to [B,3,H,W], by a mean and deviation that are given; nothing is learned or saved."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1), persistent=False)

    def fit(self, normals: Tensor, batch_size: int) -> None:
        """Nothing to take from the train normals."""

    def forward(self, images: Tensor) -> Tensor:
        """Three channels, float32."""
        return (images - self.mean) / self.deviation


def preparation(
    name: Preparation, channels: int, statistics: tuple[Sequence[float], Sequence[float]] | None = None
) -> ContrastNormalisation | Standardisation | FixedStandardisation:
    """The module of that name, not fitted; `statistics` are the mean and deviation of `pretrained`.

    Raises:
        BadSettings: `pretrained` without statistics.
    """
    if name == "contrast":
        return ContrastNormalisation(channels)
    if name == "standard":
        return Standardisation(channels)
    if statistics is None:
        raise BadSettings(
            "only a trunk has statistics of what it was trained with",
            seen=f"preparation {name}",
            next_step="set preparation to contrast or standard in params.yaml, or name a trunk",
        )
    return FixedStandardisation(*statistics)


def _contrast(images: Tensor) -> Tensor:
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(FLAT)


REFERENCE_VALUES = 3 * 32 * 32  # radii are stated for this many; eps ~ sqrt(d) keeps the mean square change equal
STRIDE = 2.5  # all steps together are this many radii long, so that the search can go round


class RobustSettings(MethodSettings):
    """How a detector is made robust; radii are l2 on [0,1] values, as at 3x32x32 values, published: .5 and 1.

    radius_normals, radius_anomalies   how far the worst image may be; 0 leaves that side as it is
    steps                              of the search; each costs a forward and a backward pass of the batch
    weight                             of the anomalies' loss beside the normals'; published: 1
    random_start                       search from somewhere in the ball instead of from the image
    """

    radius_normals: Annotated[float, Field(ge=0.0)] = 0.5
    radius_anomalies: Annotated[float, Field(ge=0.0)] = 1.0
    steps: Annotated[int, Field(ge=1)] = 5
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    random_start: bool = False

    def radii(self, is_anomaly: Tensor, values: int) -> Tensor:
        """Radius of each image [B] of so many values."""
        normal, anomaly = (
            one * math.sqrt(values / REFERENCE_VALUES) for one in (self.radius_normals, self.radius_anomalies)
        )
        return normal + (anomaly - normal) * is_anomaly.to(torch.float32)

    def weigh(self, losses: Tensor, is_anomaly: Tensor) -> Tensor:
        """Losses [B], those of anomalies times `weight`."""
        return losses if self.weight == 1.0 else losses * torch.where(is_anomaly, self.weight, 1.0)


def random_changes(images: Tensor, radii: Tensor, generator: Generator) -> Tensor:
    """A change of each image [B,C,H,W]: any direction, any share of its radius [B]."""
    drawn = torch.randn(images.shape, generator=generator, device=images.device)
    share = torch.rand(len(images), generator=generator, device=images.device)
    return _unit(drawn) * (radii * share).view(-1, 1, 1, 1)


def worst_images(
    losses: Callable[[Tensor], Tensor], images: Tensor, radii: Tensor, steps: int, start: Tensor | None = None
) -> Tensor:
    """Images nearby whose loss is large: float32 [B,C,H,W] in [0,1], each no farther than its radius [B] in l2.

    `losses` gives one value an image, each a function of its own image alone. Only the gradient of the images is taken,
    also where gradients are switched off; weights get none. An image without a gradient stays where it is. `start` is a
    change within the radii to search from, instead of none.
    """
    x, limit = images.detach(), radii.view(-1, 1, 1, 1)
    stride = limit * (STRIDE / steps)
    change = torch.zeros_like(x) if start is None else (x + start).clamp_(0.0, 1.0) - x
    for _ in range(steps):
        with torch.enable_grad():
            leaf = (x + change).clamp_(0.0, 1.0).requires_grad_(True)
            (gradient,) = torch.autograd.grad(losses(leaf).sum(), leaf)
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        change = change + stride * _unit(gradient)
        change = change * (limit / _length(change).clamp(min=1e-12)).clamp(max=1.0)
        change = (x + change).clamp_(0.0, 1.0) - x  # towards x, so the ball still holds
    return (x + change).clamp_(0.0, 1.0)


@contextmanager
def as_it_serves(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and then back in the one it was in."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _length(values: Tensor) -> Tensor:
    """l2 norm of each image, [B,1,1,1]."""
    lengths: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return lengths.view(-1, 1, 1, 1)


def _unit(values: Tensor) -> Tensor:
    """Each image divided by its length; scaled first, because squares of tiny gradients vanish in float32."""
    largest = values.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(values.dtype).tiny).view(-1, 1, 1, 1)
    scaled: Tensor = values / largest
    return scaled / _length(scaled).clamp(min=1e-12)
