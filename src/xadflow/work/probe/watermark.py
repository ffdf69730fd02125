"""A watermark that is not part of any product: a small semi-transparent label in a corner, with its exact mask.

It is a plate of 7 x 9 square cells with two letters on it, light strokes on a dark ground, so that it can be seen on
any picture. Place and opacity vary from image to image, all drawn from one generator before any pixel is touched:
neither batches nor the device change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from xadflow.errors import BadInput

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]

LIGHT, DARK = 235.0, 20.0  # grey levels of the strokes and of the ground behind them
LEAST_CHANGE = 8.0  # grey levels: a pixel that has the ink's level already is moved away from it by this much
BATCH = 512  # images stamped at once
_PLATE = ("         ", " # # ### ", " # # #   ", "  #  ##  ", " # # #   ", " # # #   ", "         ")


@dataclass(frozen=True)
class Places:
    """One place for each of N images: first row and column of the plate [N] (pixels), opacity [N] in (0, 1]."""

    rows: Tensor
    columns: Tensor
    opacities: Tensor

    def __getitem__(self, chosen: Tensor) -> Places:
        return Places(self.rows[chosen], self.columns[chosen], self.opacities[chosen])


@dataclass(frozen=True)
class Watermark:
    """How the mark looks.

    size     width of the plate as a share of the image's shorter side; each cell is a whole number of pixels
    corner   where it is; `drift` is how far it may lie from there, as a share of the shorter side
    opacity  lowest and highest, of the ink over the picture
    """

    size: float = 0.34
    corner: Corner = "bottom-right"
    drift: float = 0.06
    opacity: tuple[float, float] = (0.5, 0.8)

    def plate(self, height: int, width: int) -> Tensor:
        """Strokes of the plate, bool [h,w], for images of this size. Raises BadInput where it does not fit."""
        side, cells = min(height, width), torch.tensor([[letter == "#" for letter in row] for row in _PLATE])
        scale = max(1, int(self.size * side / cells.shape[1]))
        plate = cells.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        if max(plate.shape) + self._most_drift(side) > side:
            raise BadInput(
                "the watermark does not fit into the image",
                seen=f"{plate.shape[1]} x {plate.shape[0]} px in {width} x {height} px",
                next_step="use images of at least 16 px",
            )
        return plate

    def drawn(self, count: int, height: int, width: int, generator: Generator) -> Places:
        """A place for each of `count` images of this size."""
        plate, most = self.plate(height, width), self._most_drift(min(height, width))
        rows, columns = (torch.randint(most + 1, (count,), generator=generator) for _ in range(2))
        low, high = self.opacity
        opacities = low + (high - low) * torch.rand(count, generator=generator)
        if self.corner.startswith("bottom"):
            rows = height - plate.shape[0] - rows
        if self.corner.endswith("right"):
            columns = width - plate.shape[1] - columns
        return Places(rows, columns, opacities)

    def stamped(self, images: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Copies of uint8 [N,C,H,W] with the mark, and where they differ: bool [N,H,W], the plate and nothing else.

        All channels get the same ink. Raises BadInput: another type or shape, or one place too few.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or len(places.rows) != len(images):
            raise BadInput(
                "a watermark is put on uint8 images [N,C,H,W], at one place each",
                seen=(str(images.dtype), tuple(images.shape), len(places.rows)),
                next_step="convert by xadflow.images.to_input",
            )
        marked, masks = (
            images.clone(),
            torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device),
        )
        plate = self.plate(images.shape[2], images.shape[3]).to(images.device)
        for some in torch.split(torch.arange(len(images)), BATCH):
            marked[some], masks[some] = _stamp(images[some], places[some], plate)
        return marked, masks

    def _most_drift(self, side: int) -> int:
        return int(self.drift * side)


def _stamp(images: Tensor, places: Places, plate: Tensor) -> tuple[Tensor, Tensor]:
    (height, width), device = images.shape[2:], images.device
    rows = torch.arange(height, device=device) - places.rows.to(device)[:, None]  # (B, H), rows of the plate
    columns = torch.arange(width, device=device) - places.columns.to(device)[:, None]  # (B, W)
    inside = ((rows >= 0) & (rows < plate.shape[0]))[:, :, None] & ((columns >= 0) & (columns < plate.shape[1]))[
        :, None, :
    ]
    is_stroke = plate[rows.clamp(0, plate.shape[0] - 1)[:, :, None], columns.clamp(0, plate.shape[1] - 1)[:, None, :]]
    is_stroke = is_stroke[:, None]  # (B, 1, H, W)
    ink = torch.where(is_stroke, LIGHT, DARK)
    pixels = images.float()
    blended = (pixels + places.opacities.to(device)[:, None, None, None] * (ink - pixels)).round()
    away = pixels + torch.where(is_stroke, -LEAST_CHANGE, LEAST_CHANGE)  # stays in 0..255: the ink is not at either end
    changed = torch.where((blended - pixels).abs() < LEAST_CHANGE, away, blended)
    return torch.where(inside[:, None], changed.to(torch.uint8), images), inside
