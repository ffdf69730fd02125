"""What the explainers check at their border: settings, and the images they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from xadflow.detectors.base import Detector
from xadflow.digests import sha256_json
from xadflow.errors import BadInput
from xadflow.explainers.base import Explainer, traits
from xadflow.settings.of_methods import MethodSettings, validated

Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
_NONE = object()


class ExplainerSettings(MethodSettings):
    """Base of every explainer's settings."""

    seed: Seed = 0

    came_later: ClassVar[Mapping[str, object]] = {}
    """Of each setting that rows were written without: the value that does what was done then. It is not in the version,
    so that those rows keep theirs, and a replay finds the way back."""

    def version(self, code_version: str) -> str:
        """`<code version>-<first 8 hex digits of the settings' digest>`."""
        told = self.model_dump(mode="json")
        told = {name: value for name, value in told.items() if self.came_later.get(name, _NONE) != value}
        return f"{code_version}-{sha256_json(told)[:8]}"


Kind = TypeVar("Kind", bound=ExplainerSettings)


class SettledExplainer(Generic[Kind]):
    """What explainers that are not trained share: settings of `settings_kind`, and a version that follows from them.

    Raises BadSettings for settings it does not know.
    """

    name: ClassVar[str]
    code_version: ClassVar[str]
    settings_kind: ClassVar[type[ExplainerSettings]]
    settings: Kind

    def __init__(self, **settings: object) -> None:
        self.settings = validated(self.settings_kind, settings, f"explainer {self.name}")  # type: ignore[assignment]

    @property
    def version(self) -> str:
        """Code version and digest of the settings."""
        return self.settings.version(self.code_version)

    @property
    def seed(self) -> int:
        """As set, whether or not anything is drawn."""
        return self.settings.seed


def settings_of(explainer: Explainer, given: Mapping[str, object]) -> dict[str, object]:
    """All settings of an explainer, defaults too, so that a row can be made anew after a default has changed; what was
    `given` for one of a third party that keeps none.
    """
    kept = traits(explainer).settings
    return kept.model_dump(mode="json") if isinstance(kept, ExplainerSettings) else dict(given)


def eight_bit(detector: Detector, images: Tensor) -> Tensor:
    """The uint8 [B,C,H,W] that float images in [0,1] were made from.

    Raises:
        BadInput: not float32 [B,C,H,W] of the detector's shape, or values that are not 8-bit values / 255.
    """
    if images.dtype != torch.float32 or images.ndim != 4 or tuple(images.shape[1:]) != tuple(detector.input_shape):
        raise BadInput(
            f"explainers take float32 images of shape (B, *{tuple(detector.input_shape)})",
            seen=(str(images.dtype), tuple(images.shape)),
            next_step="convert by xadflow.images.to_input and xadflow.detectors.as_float",
        )
    levels = images.detach() * 255
    pixels = levels.round()
    if not bool(((levels - pixels).abs() < 1e-2).all() and ((pixels >= 0) & (pixels <= 255)).all()):
        raise BadInput(
            "explainers take 8-bit values / 255",
            seen=[float(images.min()), float(images.max())],
            next_step="convert by xadflow.images.to_input and xadflow.detectors.as_float",
        )
    return pixels.to(torch.uint8)
