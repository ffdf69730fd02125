"""What every detector is: the protocol, the tensors that go in and come out, and how one is found by name.

Images are float32 [B,C,H,W] in [0,1]; scores are raw, higher is more anomalous, never clamped or squashed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from xadflow.calibration import Calibration
from xadflow.cards import bad_card, checked_calibration, checked_shape, read_card
from xadflow.datasets.training_data import TrainingData as TrainingData
from xadflow.errors import BadSettings, unknown_name
from xadflow.images import VOID as VOID  # detectors of scenes take it from here
from xadflow.images.reading import MOST_BITS
from xadflow.plugins import registered
from xadflow.settings import DatasetSettings
from xadflow.training.run import SAMPLES as SAMPLES
from xadflow.training.run import FitReport as FitReport
from xadflow.training.run import FitRun as FitRun

GROUP = "xadflow.detectors"
CARD = "detector.json"
WEIGHTS = "weights.safetensors"
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
_BITS = "bit_depth"


@dataclass(frozen=True)
class Scores:
    """Raw scores of a batch: `image` [B], and `map` [B,H,W] at input resolution where the method has one."""

    image: Tensor
    map: Tensor | None = None


@runtime_checkable
class Detector(Protocol):
    """One anomaly detector: contract (docs/explanation/architecture.md)."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was fitted on."""

    @property
    def calibration(self) -> Calibration:
        """Threshold, temperature and held-out normal scores; raises BadWeights before fit."""

    def fit(self, data: TrainingData, run: FitRun) -> FitReport:
        """Train and calibrate; resumes from `run.folder` where a checkpoint of the same work is there."""

    def score(self, images: Tensor) -> Scores:
        """Raw scores of float32 [B,C,H,W] in [0,1]; differentiable in `images`."""

    def normal_logit(self, images: Tensor) -> Tensor:
        """[B], (threshold - score) / temperature; differentiable; its sigmoid is the calibrated P(normal)."""

    def to(self, device: str | torch.device) -> Self:
        """Move to a device, in place."""

    def save(self, folder: Path) -> None:
        """Write detector.json and weights.safetensors; never pickle."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


@dataclass(frozen=True)
class Traits:
    """What a detector may say of itself beside the protocol, by members of these names; as here where it does not.

    method                the name it is registered under
    settings              its settings, of which `trunk` or `network` tells which packaged trunk it looks through
    differentiable        whether its scores have a gradient in the images
    score_is              what its loss makes of the score s: `logit`, P(anomaly) = sigmoid(s); `radius`, 1 - exp(-s);
                          None, neither, and then the calibration alone makes a probability of it
    synthesiser           what draws the defects that it learns from
    learns_from_outliers  whether it has a use for the data set's outliers, which are not loaded otherwise
    anomaly_sources       what it trains against with some data, out of outliers, known and synthetic; () for nothing
    stages                the pieces of work that its training is, see :class:`Staged`
    """

    method: str
    settings: object = None
    differentiable: bool = True
    score_is: Literal["logit", "radius", "unsaid"] | None = "unsaid"
    synthesiser: str = "defects"
    learns_from_outliers: bool = True
    anomaly_sources: Callable[[TrainingData], tuple[str, ...]] | None = None
    stages: tuple[str, ...] = ()


def traits(detector: Detector | type[Any]) -> Traits:
    """What a detector says of itself, or its class."""
    kind = detector if isinstance(detector, type) else type(detector)
    said = {one.name: getattr(detector, one.name) for one in fields(Traits) if hasattr(detector, one.name)}
    return Traits(**{"method": kind.__name__, **said})


@runtime_checkable
class Staged(Protocol):
    """What a detector has beside the protocol whose training is several pieces of work, one after the other.

    A class attribute `stages` names them in order (:class:`Traits`). `fit` runs whatever is missing of all; each leaves
    its checkpoint in `run.folder`, which is how the next one gets its result. The flow gives each a task of its own.
    """

    def fit_stage(self, stage: str, data: TrainingData, run: FitRun) -> FitReport:
        """Run what is missing up to this stage, and no further. Raises as `fit`; UnknownName for another stage."""


@dataclass(frozen=True)
class Reconstructions:
    """What a detector thinks an image should look like, in two steps, and how its map and score follow from that.

    Images [B,C,H,W] on the [0,1] scale, which they may leave a little; means and variances are over drawn samples.
    `terms`: raw maps [B,H,W] of the differences between them. `contributions`: what each term that enters adds to the
    map [B,H,W] before its last blur; `map` and `parts` (name to [B]) are those of `score`, `parts` before they are
    weighted.
    """

    impression: Tensor
    naive_mean: Tensor
    naive_variance: Tensor
    expert_mean: Tensor
    expert_variance: Tensor
    terms: Mapping[str, Tensor]
    contributions: Mapping[str, Tensor]
    map: Tensor
    parts: Mapping[str, Tensor]


@runtime_checkable
class Reconstructing(Protocol):
    """What a detector has beside the protocol that can show its reconstructions."""

    def reconstructions(self, images: Tensor, samples: int) -> Reconstructions:
        """Of float32 [B,C,H,W] in [0,1]; `samples`, at least 2, for means and variances. The same images, the same
        answer.
        """


@dataclass(frozen=True)
class Cues:
    """What a map of scenes is made of, and the classes that the detector sees under it.

    `maps`: raw maps [B,H,W] by name whose sum is the map of `score`; higher is more anomalous in each. `classes`: int64
    [B,H,W], an index into `names`, the likeliest known class of each pixel whether or not it is anomalous.
    """

    maps: Mapping[str, Tensor]
    classes: Tensor
    names: tuple[str, ...]


@runtime_checkable
class Cued(Protocol):
    """What a detector of scenes has beside the protocol: its map split into cues, and a class for each pixel."""

    def cues(self, images: Tensor) -> Cues:
        """Of float32 [B,C,H,W] in [0,1]; differentiable in `images`, classes apart."""


def _methods() -> Mapping[str, Any]:
    return registered(GROUP)


def detector_names() -> list[str]:
    """Names of all registered detectors, third parties' included."""
    return sorted(_methods())


def detector_class(name: str) -> type[Any]:
    """The class registered under a name. Raises UnknownName."""
    if name not in _methods():
        raise unknown_name("no detector of that name", name, detector_names())
    kind: type[Any] = _methods()[name].load()
    return kind


def build_detector(name: str, **settings: object) -> Detector:
    """A new, unfitted detector. Raises UnknownName, or BadSettings for settings the method does not know."""
    detector: Detector = detector_class(name)(**settings)
    return detector


def training_stages(name: str) -> tuple[str, ...]:
    """The stages of a method's training, in order; none where it is one piece of work. Raises UnknownName."""
    return traits(detector_class(name)).stages


def load_detector(folder: Path) -> Detector:
    """The detector saved in `folder`, whatever its method. Raises BadWeights or UnknownName."""
    card = read_card(folder / CARD)
    checked_shape(card, folder / CARD)
    checked_calibration(card, folder / CARD)
    if not isinstance(card.get("method"), str):
        raise bad_card(folder / CARD, f"method is {str(card.get('method'))[:40]}")
    kind = detector_class(card["method"])
    try:
        bits = int(card.get(_BITS, MOST_BITS))
        if not 8 <= bits <= MOST_BITS:
            raise ValueError(f"{_BITS} {bits}")
        detector: Detector = kind.load(folder)
    except (*_UNREADABLE, BadSettings) as err:  # of settings, shapes and tensors that do not belong together
        raise bad_card(folder / CARD, f"{type(err).__name__} {err}") from err
    if bits != MOST_BITS:
        setattr(detector, _BITS, bits)
    return detector


def remember_bit_depth(folder: Path, bits: int) -> None:
    """Write into a saved detector how many bits of 16-bit grey values it was trained on; nothing for all of them."""
    if bits == MOST_BITS:
        return
    card = read_card(folder / CARD)
    text = json.dumps({**card, _BITS: bits}, sort_keys=True, indent=2, allow_nan=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def bit_depth_of(detector: Detector) -> int:
    """How many bits of 16-bit grey values the images were taken to have that a detector was trained on."""
    return int(getattr(detector, _BITS, MOST_BITS))


def as_seen_by(detector: Detector, dataset: DatasetSettings) -> DatasetSettings:
    """The data set with the bits that a detector was trained on: a later setting is for those trained later."""
    return dataset.model_copy(update={_BITS: bit_depth_of(detector)})
