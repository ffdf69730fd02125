"""Synthetic defects by name, and rounds of them over a set of images.

defects    drawn squares, pastes, blotches and cracks, one kind an image (xadflow.defects.drawn)
confetti   of the FCDD paper (xadflow.defects.confetti)
cut_paste  a rectangle of the image pasted elsewhere with less gain (CutPaste, Li et al., CVPR 2021), one of the kinds
           above
perlin     another image of the batch shines through where Perlin noise is high (DRAEM; xadflow.defects.perlin)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from xadflow.defects.confetti import confetti
from xadflow.defects.drawn import synthetic_defects
from xadflow.defects.perlin import perlin

Synthesiser = Literal["defects", "confetti", "cut_paste", "perlin"]

SYNTHESISERS: dict[str, Callable[[Tensor, Generator], tuple[Tensor, Tensor]]] = {
    "defects": synthetic_defects,
    "confetti": confetti,
    "cut_paste": partial(synthetic_defects, kinds=("cut_paste",)),
    "perlin": perlin,
}


def synthetic_rounds(
    images: Tensor, kind: str, rounds: int, batch_size: int, device: torch.device, generator: Generator
) -> tuple[Tensor, Tensor]:
    """`rounds` defective copies of each image and their masks, drawn batch by batch from one generator."""
    batches = torch.split(images, batch_size)
    drawn = [SYNTHESISERS[kind](batch.to(device), generator) for _ in range(rounds) for batch in batches]
    if not drawn:
        return images[:0].to(device), torch.zeros(0, *images.shape[2:], dtype=torch.bool, device=device)
    return torch.cat([images for images, _ in drawn]), torch.cat([masks for _, masks in drawn])
