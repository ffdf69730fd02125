"""What a training step sees: normals drawn with replacement, moved as normal variation allows, and a corrupted copy of
them. And the sample sheets of a training: a few normals, and a few with a drawn defect, as the stages see them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from xadflow.defects.drawn import synthetic_defects
from xadflow.defects.synthesisers import SYNTHESISERS
from xadflow.detectors.utad.expert_net import Expert
from xadflow.detectors.utad.impression_net import ImpressionNet
from xadflow.detectors.utad.maps import grey
from xadflow.detectors.utad.settings import ImpressionSettings, StageSettings
from xadflow.images import as_float, encode_png, to_levels
from xadflow.pictures.tile_sheet import Tile, tile_sheet
from xadflow.training.seeds import seeded


def drawn(normals: Tensor, settings: StageSettings, generator: Generator) -> Tensor:
    """A batch of the uint8 normals [N,C,H,W] as float32 in [0,1], on their device."""
    rows = torch.randint(len(normals), (settings.batch_size,), generator=generator, device=normals.device)
    return moved(as_float(normals[rows]), settings, generator)


def moved(images: Tensor, settings: StageSettings, generator: Generator) -> Tensor:
    """Each image flipped, turned and cropped at random as the settings allow; borders are reflected, so nothing turns
    black.
    """
    count, device = len(images), images.device
    for axis, kinds in ((-1, ("horizontal", "both")), (-2, ("both",))):
        if settings.flips in kinds:
            chosen = torch.rand(count, generator=generator, device=device) < 0.5
            images = torch.where(chosen.view(-1, 1, 1, 1), images.flip(axis), images)
    if settings.rotation == 0.0 and settings.crop == 1.0:
        return images
    turns, areas, rows, columns = torch.rand(4, count, generator=generator, device=device)
    angle = (2.0 * turns - 1.0) * math.radians(settings.rotation)
    side = (settings.crop + (1.0 - settings.crop) * areas).sqrt()
    height, width = images.shape[2:]
    sine, cosine = side * angle.sin(), side * angle.cos()
    shift_x, shift_y = (2.0 * columns - 1.0) * (1.0 - side), (2.0 * rows - 1.0) * (1.0 - side)
    across = torch.stack([cosine, -sine * height / width, shift_x], dim=1)
    down = torch.stack([sine * width / height, cosine, shift_y], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def corrupted(images: Tensor, settings: ImpressionSettings, generator: Generator) -> Tensor:
    """The images, `corrupt` of them with a drawn defect: what the encoder sees while the target stays clean."""
    if settings.corrupt == 0.0:
        return images
    defective, _ = SYNTHESISERS[settings.synthesiser](images, generator)
    chosen = torch.rand(len(images), generator=generator, device=images.device) < settings.corrupt
    return torch.where(chosen.view(-1, 1, 1, 1), defective, images)


IMAGES = 3  # of each kind


def impression_sheet(impress: ImpressionNet, normals: Tensor) -> bytes:
    """PNG of rows input, m, |x - m|."""
    x = _examples(normals)
    m = impress(x).m
    return _sheet([("input", x), ("impression m", m), ("|x - m|", grey(x - m).abs()[:, 0])])


def expert_sheet(impress: ImpressionNet, expert: Expert, normals: Tensor) -> bytes:
    """PNG of rows input, m, x_hat, m_hat, |x - x_hat|."""
    x = _examples(normals)
    m = impress(x).m
    x_hat = expert.image(m, expert.detail(x).flatten(1))
    d = torch.randn(1, expert.settings.detail, generator=seeded(0, "sheet", device=x.device), device=x.device)
    m_hat = expert.impression(x, d.expand(len(x), -1))
    return _sheet(
        [
            ("input", x),
            ("impression m", m),
            ("expert x_hat", x_hat),
            ("naive m_hat", m_hat),
            ("|x - x_hat|", grey(x - x_hat).abs()[:, 0]),
        ]
    )


def _examples(normals: Tensor) -> Tensor:
    some = normals[:IMAGES]
    defective, _ = synthetic_defects(some, seeded(0, "sheet", device=some.device))
    return as_float(torch.cat([some, defective]))


def _sheet(rows: Sequence[tuple[str, Tensor]]) -> bytes:
    tiles = [
        Tile(name if column == 0 else "", _picture(value))
        for name, values in rows
        for column, value in enumerate(values)
    ]
    return encode_png(tile_sheet(tiles, columns=len(rows[0][1])))


def _picture(values: Tensor) -> NDArray[Any]:
    """Images as 8 bits, maps as they are."""
    if values.ndim == 2:
        return np.asarray(values.float().cpu().numpy())
    return np.asarray(to_levels(values).cpu().numpy())
