"""Can one see which concept made a counterfactual? By a classifier that had no part in making it.

The published figure takes the classifier that was trained with the generator, which rewards both for a watermark. This
one is trained afterwards, on one half of the images, and measured on the other. It still says nothing about meaning:
thick against thin strokes are told apart as well as colours are (docs/explanation/methods.md, "Diverse
counterfactuals").
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from xadflow.errors import BadInput

STEPS, BATCH, RATE, WIDTH = 200, 64, 2e-3, 16
_FEWEST = 8  # images: below, a half is no training set


def concept_accuracy(originals: NDArray[np.uint8], made: NDArray[np.uint8], seed: int, *, steps: int = STEPS) -> float:
    """Share in [0,1] of held-out counterfactuals whose concept is told from (x, x'); chance is 1/K.

    Args:
        originals: uint8 [N,C,H,W].
        made: uint8 [N,K,C,H,W], of each image by each concept.
        seed: of the halves, which share no image, and of the classifier: three convolutions of stride 2 and a mean.

    Raises:
        BadInput: other shapes, fewer than two concepts or than eight images.
    """
    if (
        made.ndim != 5
        or originals.shape != (made.shape[0], *made.shape[2:])
        or made.shape[1] < 2
        or len(made) < _FEWEST
    ):
        raise BadInput(
            "concepts are told apart on at least 8 images, at least 2 of each",
            seen=(originals.shape, made.shape),
            next_step="give uint8 [N,C,H,W] and uint8 [N,K,C,H,W]",
        )
    drawn = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(made), generator=drawn)
    learnt, held = order[: len(order) // 2], order[len(order) // 2 :]
    pairs = torch.cat(
        [torch.from_numpy(originals)[:, None].expand(*made.shape), torch.from_numpy(made)], dim=2
    )  # (N,K,2C,H,W)
    concepts = torch.arange(made.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _classifier(pairs.shape[2], len(concepts))
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    for _ in range(steps):
        rows = learnt[torch.randint(len(learnt), (max(BATCH // len(concepts), 1),), generator=drawn)]
        loss = F.cross_entropy(network(_scaled(pairs[rows].flatten(0, 1))), concepts.repeat(len(rows)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    network.eval()
    with torch.no_grad():
        told = [
            network(_scaled(pairs[rows].flatten(0, 1))).argmax(dim=1).view(-1, len(concepts))
            for rows in torch.split(held, 256)
        ]
    return float((torch.cat(told) == concepts).float().mean())


def _classifier(inputs: int, concepts: int) -> nn.Module:
    layers: list[nn.Module] = []
    for number in range(3):
        outputs = WIDTH * 2**number
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, concepts))


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32) / 127.5 - 1.0
