"""Where the windows of a large image lie, and how what is found in each becomes one map without seams.

Along each axis windows of one length begin every `length - overlap` pixels; the last one ends with the image, so that
none looks beyond it. Where two windows overlap, the outer quarter of the overlap counts for the other window alone: a
pixel there lies nearest to a border that the image does not have. Between the two quarters the share of one falls as
that of the other rises, so that a map has no step where windows meet. All shares of a pixel sum to 1: where windows
agree, the map is what they agree on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Shown(NamedTuple):
    """A pixel of an image in one of its windows, and what that window counts there."""

    number: int
    row: int
    column: int
    share: float


@dataclass(frozen=True)
class Windows:
    """The windows of images of `height` x `width` px: squares of `tile_px`, cut down to an image that is smaller."""

    height: int
    width: int
    tile_px: int
    overlap_px: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of each window."""
        return min(self.tile_px, self.height), min(self.tile_px, self.width)

    @cached_property
    def places(self) -> tuple[tuple[slice, slice], ...]:
        """Rows and columns of each, row by row."""
        rows, columns = (self._starts(side) for side in (self.height, self.width))
        high, wide = self.size
        return tuple((slice(row, row + high), slice(column, column + wide)) for row in rows for column in columns)

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, image: Tensor, numbers: list[int]) -> Tensor:
        """Windows [n,C,h,w] of one image [C,H,W]."""
        return torch.stack([image[(slice(None), *self.places[number])] for number in numbers])

    def showing(self, row: int, column: int) -> list[Shown]:
        """The windows that count at a pixel of the image, and where it lies in each."""
        found = []
        for number, (down, across) in enumerate(self.places):
            if down.start <= row < down.stop and across.start <= column < across.stop:
                y, x, columns = row - down.start, column - across.start, len(self._shares[1])
                share = float(self._shares[0][number // columns][y] * self._shares[1][number % columns][x])
                found += [Shown(number, y, x, share)] if share else []
        return found

    def changed(self, image: Tensor, other: Tensor) -> list[int]:
        """Numbers of the windows in which two images [C,H,W] differ."""
        differs = (image != other).any(dim=0)  # (H, W)
        if not bool(differs.any()):
            return []
        rows, columns = differs.any(dim=1), differs.any(dim=0)
        return [
            number
            for number, (down, across) in enumerate(self.places)
            if bool(rows[down].any()) and bool(columns[across].any()) and bool(differs[down, across].any())
        ]

    def joined(self, maps: Tensor) -> Tensor:
        """One map float [H,W] of maps [n,h,w], one for each window in order."""
        whole = maps.new_zeros(self.height, self.width)
        down, across = self._shares
        columns = len(across)
        for number, place in enumerate(self.places):
            share = down[number // columns][:, None] * across[number % columns]
            whole[place] += share.to(maps) * maps[number]
        return whole

    @cached_property
    def _shares(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of each row of windows, and of each column, what it counts at each of its pixels."""
        return self._along(self.height), self._along(self.width)

    def _along(self, side: int) -> list[Tensor]:
        length, starts = min(self.tile_px, side), self._starts(side)
        at = torch.arange(length, dtype=torch.float64) + 0.5
        quarter = self.overlap_px / 4
        weights = []
        for start in starts:
            rising = torch.ones_like(at) if start == 0 else ((at - quarter) / max(2 * quarter, 1.0)).clamp(0.0, 1.0)
            from_end = length - at
            falling = (
                torch.ones_like(at)
                if start + length == side
                else ((from_end - quarter) / max(2 * quarter, 1.0)).clamp(0.0, 1.0)
            )
            weights.append(torch.minimum(rising, falling))
        total = torch.zeros(side, dtype=torch.float64)
        for start, weight in zip(starts, weights, strict=True):
            total[start : start + length] += weight
        return [(weight / total[start : start + length]).float() for start, weight in zip(starts, weights, strict=True)]

    def _starts(self, side: int) -> list[int]:
        if side <= self.tile_px:
            return [0]
        step = self.tile_px - self.overlap_px
        return [*range(0, side - self.tile_px, step), side - self.tile_px]


def around(mask: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """First row and column of the window of this size around the middle of a mask bool [H,W], inside the image."""
    at = mask.nonzero()
    middle = at.float().mean(dim=0).tolist() if len(at) else [side / 2 for side in mask.shape]
    top, left = (
        min(max(math.floor(where - length / 2), 0), side - length)
        for where, length, side in zip(middle, size, mask.shape, strict=True)
    )
    return top, left
