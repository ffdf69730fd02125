"""What a detector may learn from, as tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingData:
    """What a detector may learn from; every tensor uint8 [N,C,H,W] of one shape, masks bool [N,H,W].

    `known` are labelled defects that are in neither test nor gate; `calibration_defects` are labelled defects in
    neither training, test nor gate (may be empty), used to fit the temperature only. `outliers` (may be empty) are
    images of something else altogether, for outlier exposure (Hendrycks et al., ICLR 2019). Scenes have `labels` and
    `val_labels` too, uint8 [N,H,W]: each pixel's class, an index into `classes`, or VOID.
    """

    normals: Tensor
    val_normals: Tensor
    known: Tensor
    known_masks: Tensor | None
    calibration_defects: Tensor
    outliers: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1, dtype=torch.uint8))
    labels: Tensor | None = None
    val_labels: Tensor | None = None
    classes: tuple[str, ...] = ()
