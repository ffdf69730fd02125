"""How many multiply-accumulates a net of scenes takes, and how many of them are the dataset head's.

Counted by torch.utils.flop_counter on the device `meta`: no weight is read, no number computed. It counts two
operations a multiply-accumulate, for convolutions and matrix products alone; normalisation, pooling, bilinear enlarging
and what is made of the logits are left out, as in published figures.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from xadflow.detectors.dense_hybrid.networks import SceneNet

HEAD = "dataset_head"


class MultiplyAccumulates(NamedTuple):
    """Of one image: of the segmentation net alone, and of its dataset head."""

    plain: int
    head: int

    @property
    def hybrid(self) -> int:
        """Both."""
        return self.plain + self.head

    @property
    def overhead(self) -> float:
        """The head's, as a share of the net's own."""
        return self.head / self.plain


def multiply_accumulates(net: SceneNet, height: int, width: int) -> MultiplyAccumulates:
    """Of an image of this size; the net is not changed. Raises BadInput for a side below the net's stride.

    >>> from xadflow.detectors.dense_hybrid.networks import build_net
    >>> net = build_net("ladder_densenet121", 19, 3, pretrained=False)
    >>> found = multiply_accumulates(net, 1024, 2048)  # published: 205.728 to 205.762 billion
    >>> f"{found.plain / 1e9:.3f} {found.hybrid / 1e9:.3f} {found.overhead:.4%}"
    '205.717 205.750 0.0163%'
    """
    empty = copy.deepcopy(net).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        empty(torch.empty(1, net.channels, height, width, device="meta"))
    counts = counter.get_flop_counts()
    total, head = (sum(counts[name].values()) for name in ("Global", f"{type(net).__name__}.{HEAD}"))
    return MultiplyAccumulates((total - head) // 2, head // 2)
