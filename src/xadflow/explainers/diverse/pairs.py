"""Batches of pairs: flawed images with what they are without the flaw, and normals that are to stay what they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xadflow.explainers.trained import Pairs
from xadflow.images import as_float


@dataclass(frozen=True)
class PairBatch:
    """`flawed` [N,C,H,W], their alternatives `mended` [N,A,C,H,W], and normals `kept` [N/2,C,H,W], all in [-1,1]."""

    flawed: Tensor
    mended: Tensor
    kept: Tensor


def drawn_pairs(pairs: Pairs, normals: Tensor, count: int, generator: torch.Generator) -> PairBatch:
    """`count` pairs, with replacement, and half as many of `normals` uint8 [M,C,H,W]."""
    device = normals.device
    rows = torch.randint(len(pairs.flawed), (count,), generator=generator, device=device)
    others = torch.randint(len(normals), (count // 2,), generator=generator, device=device)
    mended = pairs.mended[pairs.of[rows]]  # (N, A, C, H, W)
    return PairBatch(*(as_float(images) * 2.0 - 1.0 for images in (pairs.flawed[rows], mended, normals[others])))
