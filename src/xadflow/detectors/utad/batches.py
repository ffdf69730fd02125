"""What a training step sees: normals drawn with replacement, moved as normal variation allows, and a corrupted copy of
them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from xadflow.defects.synthesisers import SYNTHESISERS
from xadflow.detectors.utad.settings import ImpressionSettings, StageSettings
from xadflow.images import as_float


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
