"""What a generator paints on: the image itself, or a reduced one whose change is enlarged onto the image.

At a smaller size a generator is cheap and learns what a defect is; the fine grain of the image stays as it was, and the
detector judges at its own resolution. A mask (places.py) keeps a change to where the anomaly is.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class Canvas:
    """The sizes of an image (C, H, W) and of what a generator sees of it: at most `size_px` on the longer side; None:
    all.

    Images are float [B,C,H,W] in [-1,1].
    """

    def __init__(self, shape: tuple[int, int, int], size_px: int | None) -> None:
        channels, *full = shape
        longer = max(full)
        share = 1.0 if size_px is None else min(1.0, size_px / longer)
        self.channels, self.full = channels, (full[0], full[1])
        self.size = (round(full[0] * share), round(full[1] * share))

    @property
    def is_reduced(self) -> bool:
        """Whether the generator sees less than the detector."""
        return self.size != self.full

    def reduced(self, images: Tensor) -> Tensor:
        """The images at the generator's size, each value the mean of an area."""
        return F.interpolate(images, size=self.size, mode="area") if self.is_reduced else images

    def painted(
        self, generator: nn.Module, images: Tensor, alpha: Tensor, concept: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The images as the generator would have them, at their own size; `mask` [B,1,H,W] scales what is changed
        where.

        On a reduced canvas it gives half the change itself, which is enlarged (bilinear) and added, and the sum clipped
        to [-1,1]: a generator that starts at no change has nothing to learn about what is to stay.
        """
        if not self.is_reduced:
            made = cast(Tensor, generator(images, alpha, concept))
            return made if mask is None else images + mask * (made - images)
        seen = self.reduced(images)
        half = generator(seen, alpha, concept).to(images.dtype)
        change = F.interpolate(2.0 * half, size=self.full, mode="bilinear", align_corners=False)
        return (images + (change if mask is None else mask * change)).clamp(-1.0, 1.0)
