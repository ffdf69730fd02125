"""How far an image's code lies from the normals': k-NN in the 2-Wasserstein distance of diagonal Gaussians.

    d^2 = |mu - mu_i|^2 + |sigma - sigma_i|^2,  mean over the nearest normals

The bank holds train normals; threshold and scale come from held-out ones, which are not in it: no image is its own
neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_distance(codes: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Mean squared distance of codes [B,2N] (mu and sigma) to their nearest of the bank [M,2N], [B]; differentiable.

    Neighbours are found by one matrix product; the distances themselves are summed anew, so that an image of the bank
    is at exactly 0 from itself.
    """
    with torch.no_grad():
        rough = bank.square().sum(dim=1)[None, :] - 2.0 * codes @ bank.T  # (B, M), but for |codes|^2
        chosen = rough.topk(min(neighbours, len(bank)), dim=1, largest=False).indices  # (B, k)
    return (codes[:, None, :] - bank[chosen]).square().sum(dim=2).mean(dim=1)
