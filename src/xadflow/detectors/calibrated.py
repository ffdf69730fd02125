"""What detectors share once they can score: threshold and temperature, checks at the border, the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xadflow.calibration import Calibration, calibrate, threshold_at
from xadflow.defects.synthesisers import synthetic_rounds
from xadflow.detectors.base import FitRun, Scores, TrainingData, Traits
from xadflow.errors import BadInput, BadWeights, TrainingFailed
from xadflow.images import as_float
from xadflow.settings.blocks import at_once
from xadflow.training.devices import resolve_device
from xadflow.training.lanes import side_by_side
from xadflow.training.seeds import seeded

FEWEST_CALIBRATION_DEFECTS = 10  # below this the temperature is fitted on held-out synthetic defects instead


class CalibratedDetector(ABC):
    """Base of this package's detectors; `method`, `score_is` and `synthesiser` as in :class:`Traits`."""

    method: str
    settings: Any
    score_is: ClassVar[Literal["logit", "radius"] | None] = None

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._calibration: Calibration | None = None
        self._shape: tuple[int, int, int] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was fitted on. Raises BadWeights before fit."""
        if self._shape is None:
            raise self.not_fitted()
        return self._shape

    @property
    def calibration(self) -> Calibration:
        """Threshold, temperature and held-out normal scores. Raises BadWeights before fit."""
        if self._calibration is None:
            raise self.not_fitted()
        return self._calibration

    @property
    def synthesiser(self) -> str:
        """What draws the defects that it learns from, or is calibrated with where it learns from none."""
        return str(getattr(self.settings, "synthesiser", Traits.synthesiser))

    @abstractmethod
    def score(self, images: Tensor) -> Scores:
        """Raw scores [B] and maps [B,H,W] of float32 [B,C,H,W] in [0,1]."""

    def image_score(self, images: Tensor) -> Tensor:
        """The image scores [B] alone, for methods whose map costs extra."""
        return self.score(images).image

    def normal_logit(self, images: Tensor) -> Tensor:
        """[B], (threshold - score) / temperature; differentiable; its sigmoid is the calibrated P(normal)."""
        calibration = self.calibration
        return (calibration.threshold - self.image_score(images)) / calibration.temperature

    def to(self, device: str | torch.device) -> Self:
        """Move to a device, in place, with every module that is an attribute."""
        self._device = resolve_device(str(device))
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.to(self._device)
        return self

    def not_fitted(self) -> BadWeights:
        """The error of everything that needs a fitted detector."""
        return BadWeights("this detector is not fitted", seen=self.method, next_step="call fit or load first")

    def checked(self, images: Tensor) -> Tensor:
        """The images on the detector's device. Raises BadInput for another shape or type than it was fitted on."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.input_shape or not images.is_floating_point():
            raise BadInput(
                f"this detector scores float images [B,C,H,W] of shape {self.input_shape}",
                seen=(tuple(images.shape), str(images.dtype)),
                next_step="convert by xadflow.images.to_input and xadflow.detectors.as_float",
            )
        return images.to(self._device)

    def calibrated(self, data: TrainingData, run: FitRun, batch_size: int) -> Calibration:
        """Threshold from the held-out normals; temperature against held-out known defects, else against drawn ones.

        Raises TrainingFailed when the trained detector gives one of them no finite score.
        """
        normals = self._raw_scores(data.val_normals, batch_size)
        if len(data.calibration_defects) >= FEWEST_CALIBRATION_DEFECTS:
            defects = self._raw_scores(data.calibration_defects, batch_size)
            return calibrate(normals, defects, run.false_alarm_rate, "known")
        generator = seeded(run.seed, "held-out synthetic", device=self._device)
        drawn, _ = synthetic_rounds(data.val_normals, self.synthesiser, 1, batch_size, self._device, generator)
        return calibrate(normals, self._raw_scores(drawn, batch_size), run.false_alarm_rate, "synthetic")

    def _raw_scores(self, images: Tensor, batch_size: int) -> NDArray[np.float64]:
        def score(batch: Tensor) -> Tensor:
            with torch.no_grad():  # a thread has its own
                return self.image_score(as_float(batch.to(self._device)))

        scores = list(side_by_side(score, torch.split(images, batch_size), self._device, at_once(images.shape[1:])))
        values: NDArray[np.float64] = torch.cat(scores).double().cpu().numpy() if scores else np.zeros(0)
        if not np.isfinite(values).all():
            raise TrainingFailed(
                "the trained detector scores images with no finite number",
                seen=f"{int((~np.isfinite(values)).sum())} of {len(values)}",
                next_step="lower learning_rate of the detector in params.yaml"
                if hasattr(getattr(self, "settings", None), "learning_rate")
                else f"look at `score` of the method {self.method}: a division by zero, a logarithm of one?",
            )
        return values


def check_training_data(data: TrainingData, false_alarm_rate: float) -> None:
    """Refuse, before any work, what no method can learn from.

    Raises:
        BadInput: tensors that do not belong together, fewer than two normals, or normals that are all flat: an image of
            one colour has no contrast to normalise, and a set of them no spread to compare a defect with.
        TooFewNormals: fewer held-out normals than the false-alarm rate needs.
    """
    shape = data.normals.shape[1:]
    for name in ("normals", "val_normals", "known", "calibration_defects", "outliers"):
        part: Tensor = getattr(data, name)
        if part.dtype != torch.uint8 or part.ndim != 4 or (len(part) and part.shape[1:] != shape):
            raise BadInput(
                f"{name} must be uint8 [N,C,H,W] of the shape of the normals",
                seen=(str(part.dtype), tuple(part.shape)),
                next_step="convert by xadflow.images.to_input",
            )
    if len(data.normals) < 2:
        raise BadInput(
            "at least two normal images are needed to train",
            seen=len(data.normals),
            next_step="add images to train/good",
        )
    threshold_at(np.zeros(len(data.val_normals)), false_alarm_rate)
    if _all_flat(data.normals):
        colours = sorted({tuple(colour) for colour in data.normals[:, :, 0, 0].tolist()})[:3]
        raise BadInput(
            "every normal image to train on is of one colour all over",
            seen=f"colours {colours}",
            next_step="look at train/good: the camera was covered, or the files hold no picture",
        )
    masks = data.known_masks
    if masks is not None and (masks.dtype != torch.bool or masks.shape != (len(data.known), *shape[1:])):
        raise BadInput(
            "known_masks must be bool [K,H,W]",
            seen=(str(masks.dtype), tuple(masks.shape)),
            next_step="convert by xadflow.images.mask_to_input",
        )


def _all_flat(images: Tensor) -> bool:
    """Whether no image varies; ends at the first that does, which is nearly always the first."""
    return all(bool((batch == batch[:, :, :1, :1]).all()) for batch in torch.split(images, 64))
