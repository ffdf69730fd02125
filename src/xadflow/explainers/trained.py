"""Explainers that are trained for one detector: what they are beside an Explainer, and how a saved one is found again.

A trained explainer is saved as explainer.json, with the key `explainer` (the name it is registered under), and
safetensors; never pickle. It names the detector it belongs to by the sha256 of that detector's weight file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor

from xadflow.cards import bad_card, checked_shape, read_card
from xadflow.detectors.base import Detector
from xadflow.errors import BadInput, BadWeights
from xadflow.explainers.base import Explainer, explainer_class
from xadflow.training.progress import Listener

CARD = "explainer.json"


@dataclass(frozen=True)
class GeneratorRun:
    """Where and how a generator is trained; `identity` names the work, for a checkpoint to be of it.

    With `samples`, sheets of what it makes of training images are written to `folder`/samples/*.png now and then.
    """

    folder: Path
    seed: int
    identity: str
    device: torch.device
    progress: Listener | None = None
    samples: bool = False


@dataclass(frozen=True)
class Pairs:
    """Flawed images and what they look like without the flaw.

    `flawed` uint8 [M,C,H,W]; `mended` uint8 [T,C,H,W]; `of` int64 [M,A] names the A alternatives of each flawed image,
    rows of `mended`, the same one several times where it has fewer. Raises BadInput where they do not fit.
    """

    flawed: Tensor
    mended: Tensor
    of: Tensor

    def __post_init__(self) -> None:
        """Shapes and rows."""
        shapes = (tuple(self.flawed.shape), tuple(self.mended.shape), tuple(self.of.shape))
        fits = (
            self.flawed.shape[1:] == self.mended.shape[1:]
            and self.of.ndim == 2
            and len(self.of) == len(self.flawed) > 0
        )
        if not fits or self.of.shape[1] < 1 or int(self.of.min()) < 0 or int(self.of.max()) >= len(self.mended):
            raise BadInput(
                "pairs are flawed images [M,C,H,W], mended ones of that size, and rows of these [M,A]",
                seen=shapes,
                next_step="give every flawed image at least one mended one",
            )


@dataclass(frozen=True)
class Wanted:
    """What a trained explainer asks its caller for, beside images of both kinds.

    rounds       synthetic defects of each train normal, each a pair with that normal; 0: no pairs
    transplants  with pairs: how many transplants of each anomaly are targets too; 0: none
    companions   further detectors whose opinion counts: method and settings of each, to be fitted by the caller
    features     name and stages of a packaged trunk in which differences are measured; None: none
    held_out     whether it learns from val normals where a map is usual
    """

    rounds: int = 0
    transplants: int = 0
    companions: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    features: tuple[str, tuple[int, ...]] | None = None
    held_out: bool = False


@dataclass(frozen=True)
class Guidance:
    """What was wanted (:class:`Wanted`), on the device of the run; `features`: images in [0,1] to stages
    [B,C_i,u_i,v_i].
    """

    pairs: Pairs | None = None
    companions: tuple[Detector, ...] = ()
    features: Callable[[Tensor], Sequence[Tensor]] | None = None
    held_out: Tensor | None = None


@dataclass(frozen=True)
class Explained:
    """Whom a generator explains: sha256 of the detector's weight file, and the images (C, H, W) it takes."""

    weights: str
    shape: tuple[int, int, int]


class Training(Protocol):
    """What a training did: the step a checkpoint gave, and (step, name, value) of its losses."""

    @property
    def resumed_from(self) -> int:
        """0 without a checkpoint."""

    @property
    def history(self) -> tuple[tuple[int, str, float], ...]:
        """Losses of the steps."""


class TrainedExplainer(Explainer, Protocol):
    """An explainer that has to be trained; its `version` changes with its weights."""

    @property
    def explained(self) -> Explained:
        """Whom it explains. Raises BadWeights before it is trained or loaded."""

    def fit(self, detector: Detector, weights: str, normals: Tensor, anomalies: Tensor, run: GeneratorRun) -> Training:
        """Train on uint8 [N,C,H,W] of both kinds for the detector whose weight file has the sha256 `weights`.

        Goes on from `run.folder` where a checkpoint of the same identity is there.
        """

    def to(self, device: str | torch.device) -> Self:
        """Move to a device, in place."""

    def save(self, folder: Path) -> None:
        """Write explainer.json and safetensors."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises BadWeights."""


@runtime_checkable
class Guided(Protocol):
    """What a trained explainer has beside the protocol whose `fit` takes one more argument, `guidance`."""

    @property
    def wanted(self) -> Wanted | None:
        """What it wants with its settings; None: `fit` is called without guidance."""


@runtime_checkable
class Placed(Protocol):
    """What a trained explainer has beside the protocol that may keep its changes to some places of an image."""

    def anywhere(self) -> TrainedExplainer:
        """The same one where nothing keeps it from changing any place; itself where nothing does already."""


def needs_training(name: str) -> bool:
    """Whether an explainer is of use only after it was trained for a detector. Raises UnknownName."""
    return hasattr(explainer_class(name), "fit")


def load_explainer(folder: Path) -> TrainedExplainer:
    """The trained explainer saved in `folder`, whatever its name. Raises BadWeights or UnknownName."""
    card = read_card(folder / CARD)
    checked_shape(card, folder / CARD)
    name = card.get("explainer")
    if not isinstance(name, str):
        raise bad_card(folder / CARD, f"explainer is {str(name)[:40]}")
    if not needs_training(name):
        raise BadWeights(
            "an explainer that is not trained has no saved files",
            seen=name,
            next_step="register the explainer again by `xadflow retrain`",
        )
    return cast(type[TrainedExplainer], explainer_class(name)).load(folder)
