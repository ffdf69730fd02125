"""Gaussian upsampling of a low-resolution heatmap, exactly, as two small matrix products.

FCDD (ICLR 2021, section 3 "Heatmap upsampling") lays a Gaussian of receptive-field size around each cell's centre by
a transposed convolution. The kernel is separable, so up(A) = G_y A G_x^T is the same sum; it needs no padding or
cropping and works for any size, rectangular ones included (docs/explanation/methods.md, "FCDD"; equality is tested for
every network of the paper's code). The published kernel is not normalised: borders lose up to three quarters of their
heat, so `coverage` divides by what a constant map would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Normalisation = Literal["none", "dc", "coverage"]


class Field(NamedTuple):
    """Receptive-field arithmetic along one axis: `cells`, their `stride` and `extent` in px, first centre `start`."""

    cells: int
    stride: int
    extent: int
    start: float


def receptive_field(size_px: int, layers: Iterable[tuple[int, int, int]]) -> Field:
    """What a stack of convolutions and poolings, each (kernel, stride, padding), makes of `size_px` input pixels."""
    cells, stride, extent, start = size_px, 1, 1, 0.0
    for kernel, step, padding in layers:
        cells = (cells + 2 * padding - kernel) // step + 1
        start += ((kernel - 1) / 2 - padding) * stride
        extent += (kernel - 1) * stride
        stride *= step
    return Field(cells, stride, extent, start)


def gaussian_matrix(
    size_px: int,
    cells: int,
    *,
    stride: float,
    start: float,
    extent: int,
    sigma: float,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """G [size_px, cells]: weight of each cell at each pixel, a Gaussian around start + stride * cell.

    Zero beyond (extent - 1) / 2. An even `extent` has its two centre taps half a pixel off the centre and half the
    height, as the published kernel.
    """
    pixel = torch.arange(size_px, dtype=torch.float64)[:, None]
    centre = start + stride * torch.arange(cells, dtype=torch.float64)[None, :]
    distance = (pixel - centre).abs()  # (size_px, cells)
    even = extent % 2 == 0
    from_tap = distance - 0.5 if even else distance
    weight = (0.5 if even else 1.0) * torch.exp(-from_tap.square() / (2.0 * sigma**2))
    return weight.where(distance <= (extent - 1) / 2 + 1e-9, 0.0).to(dtype)


class GaussianUpsampling(nn.Module):
    """up(A) = G_y A G_x^T over the gain of a constant map: `none` (published), `dc` (centre), `coverage` (each pixel).

    With `coverage` a constant map stays that constant, edges included.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, rows: Tensor, columns: Tensor, normalisation: Normalisation = "coverage") -> None:
        super().__init__()
        self.normalisation = normalisation
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    @classmethod
    def over_grid(
        cls, size_px: tuple[int, int], cells: tuple[int, int], sigma_px: float, normalisation: Normalisation
    ) -> GaussianUpsampling:
        """For cells that tile the image evenly, each centred in its tile, the Gaussian cut at three sigma.

        For trunks whose receptive field exceeds the image, where cutting at the receptive field would cut nothing.
        """
        extent = 2 * math.ceil(max(3.0 * sigma_px, size_px[0] / cells[0], size_px[1] / cells[1])) + 1
        rows, columns = (
            gaussian_matrix(
                size,
                count,
                stride=size / count,
                start=(size / count - 1) / 2,
                extent=extent,
                sigma=sigma_px,
                dtype=torch.float32,
            )
            for size, count in zip(size_px, cells, strict=True)
        )
        return cls(rows, columns, normalisation)

    def forward(self, maps: Tensor) -> Tensor:
        """[B,u,v] to [B,H,W], in the matrices' dtype; differentiable."""
        up = self.rows @ maps.to(self.rows.dtype) @ self.columns.T
        return up if self.normalisation == "none" else up / self.gain()

    def gain(self) -> Tensor:
        """What a constant map of 1 becomes, [H,W], or for `dc` its value at the centre pixel."""
        gain = self.rows.sum(dim=1)[:, None] * self.columns.sum(dim=1)[None, :]  # (H, W)
        if self.normalisation == "dc":
            return gain[gain.shape[0] // 2, gain.shape[1] // 2]
        return gain
