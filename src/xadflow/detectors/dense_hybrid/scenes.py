"""What a training has: scenes with the class of each pixel, and negatives, checked once and held as bytes on the
device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from xadflow.defects.synthesisers import SYNTHESISERS
from xadflow.detectors.base import VOID, TrainingData
from xadflow.detectors.dense_hybrid.pasting import Mixed, Negatives, mixed
from xadflow.detectors.dense_hybrid.settings import DenseHybridSettings, StageSettings
from xadflow.errors import BadInput, BadSettings
from xadflow.images import as_float
from xadflow.training.seeds import seeded

HELD_OUT = 10  # one negative in so many is kept for the pastes of the validation
ONE_CLASS = "normal"


@dataclass(frozen=True)
class Scenes:
    """Images uint8 [N,C,H,W], labels uint8 [N,H,W], negatives uint8 [M,C,H,W] (none: they are drawn), all on one
    device.
    """

    images: Tensor
    labels: Tensor
    negatives: Tensor

    def drawn(self, settings: StageSettings, generator: Generator) -> tuple[Tensor, Tensor]:
        """A batch, with replacement: images float [B,C,h,w] in [0,1] and labels int64 [B,h,w], moved as the
        stage says.
        """
        rows = torch.randint(len(self.images), (settings.batch_size,), generator=generator, device=self.images.device)
        return moved(as_float(self.images[rows]), self.labels[rows].long(), settings, generator)

    def with_pastes(self, images: Tensor, labels: Tensor, settings: DenseHybridSettings, generator: Generator) -> Mixed:
        """The batch with negatives in it."""
        if len(self.negatives):
            return mixed(images, labels, Negatives(self.negatives), settings.paste, generator)
        defective, masks = SYNTHESISERS[settings.synthesiser](images, generator)
        return Mixed(defective, torch.where(masks, VOID, labels), masks)


def moved(images: Tensor, labels: Tensor, settings: StageSettings, generator: Generator) -> tuple[Tensor, Tensor]:
    """Flipped, enlarged and cut out as the settings allow; void, and grey as the image's mean, where nothing was."""
    count, (height, width), device = len(images), images.shape[2:], images.device
    if settings.flip:
        chosen = torch.rand(count, generator=generator, device=device) < 0.5
        images = torch.where(chosen.view(-1, 1, 1, 1), images.flip(-1), images)
        labels = torch.where(chosen.view(-1, 1, 1), labels.flip(-1), labels)
    if settings.jitter == (1.0, 1.0) and settings.crop_px is None:
        return images, labels
    high, wide = (settings.crop_px, settings.crop_px) if settings.crop_px else (height, width)
    draws, across, down = torch.rand(3, count, generator=generator, device=device)
    factor = settings.jitter[0] + (settings.jitter[1] - settings.jitter[0]) * draws
    zero = torch.zeros_like(factor)
    window_x, window_y = wide / width / factor, high / height / factor
    rows = [
        torch.stack([window_x, zero, (2 * across - 1) * (1 - window_x).abs()], dim=1),
        torch.stack([zero, window_y, (2 * down - 1) * (1 - window_y).abs()], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), [count, 1, high, wide], align_corners=False)
    there = (grid.abs() <= 1).all(dim=-1)  # (B, h, w)
    mean = images.mean(dim=(2, 3), keepdim=True)
    cut = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    ids = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return torch.where(there[:, None], cut, mean), torch.where(there, ids[:, 0].round().long(), VOID)


def class_names(data: TrainingData, settings: DenseHybridSettings) -> tuple[str, ...]:
    """The known classes; one where all is one."""
    return (ONE_CLASS,) if settings.classes == "one" else data.classes


def scenes_of(
    data: TrainingData, settings: DenseHybridSettings, seed: int, device: torch.device
) -> tuple[Scenes, Scenes]:
    """Those to train on and those to look at meanwhile; a share of the negatives is kept for the latter.

    Raises:
        BadInput: labels that are missing, of another shape or type, of unknown classes, or all void; a crop above the
        image. BadSettings: no negatives.
    """
    shorter = min(data.normals.shape[2:])
    for name, stage in (("closed", settings.closed), ("hybrid", settings.hybrid)):
        if stage.crop_px is not None and stage.crop_px > shorter:
            raise BadInput(
                f"{name}.crop_px is larger than the images",
                seen=f"{stage.crop_px} px of {shorter} px",
                next_step="lower crop_px of the detector, or raise size_px of the data set",
            )
    kinds = len(data.classes)
    labels = _checked("labels", data.labels, data.normals, kinds, settings)
    val_labels = _checked("val_labels", data.val_labels, data.val_normals, kinds, settings)
    negatives = data.outliers
    if settings.negatives == "synthetic":
        negatives = negatives[:0]
    elif not len(negatives):
        raise BadSettings(
            "there are no negatives to paste into scenes",
            seen="no `outliers` of this data set",
            next_step="name a data set under `outliers` of this one in params.yaml, or set "
            "`negatives: synthetic` of the detector",
        )
    order = torch.randperm(len(negatives), generator=seeded(seed, "negatives held out"))
    kept = order[: len(negatives) // HELD_OUT].sort().values
    rest = order[len(negatives) // HELD_OUT :].sort().values
    learned, looked_at = negatives[rest], negatives[kept if len(kept) else rest]
    return (
        Scenes(data.normals.to(device), labels.to(device), learned.to(device)),
        Scenes(data.val_normals.to(device), val_labels.to(device), looked_at.to(device)),
    )


def _checked(name: str, labels: Tensor | None, images: Tensor, kinds: int, settings: DenseHybridSettings) -> Tensor:
    shape = (len(images), *images.shape[2:])
    if settings.classes == "one":
        return torch.zeros(shape, dtype=torch.uint8)
    if labels is None or kinds == 0:
        raise BadInput(
            f"scenes need a class for each pixel, and this data set has no {name}",
            seen=f"{kinds} classes",
            next_step="take a data set of scenes with labels, or set `classes: one` of the detector in params.yaml",
        )
    if labels.dtype != torch.uint8 or tuple(labels.shape) != shape:
        raise BadInput(
            f"{name} must be uint8 [N,H,W] of the images' size",
            seen=(str(labels.dtype), tuple(labels.shape)),
            next_step=f"give one id a pixel: {shape}",
        )
    odd = sorted(set(np.unique(labels.numpy()).tolist()) - {*range(kinds), VOID})
    if odd:
        raise BadInput(
            f"{name} have ids that are no class; there are {kinds} classes, and {VOID} for void",
            seen=odd[:5],
            next_step="mend the label images, or name the classes that are missing",
        )
    if bool((labels == VOID).all()):
        raise BadInput(
            f"every pixel of {name} is void",
            seen=f"{len(labels)} label images",
            next_step="look at the label images: nothing in them says what is normal",
        )
    return labels
