"""What every explainer is, what an explanation holds, and how an explainer is found by name.

All figures are computed on the stored, decoded 8-bit image, so that anyone can recompute them from the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xadflow.detectors.base import Detector, detector_class
from xadflow.errors import unknown_name
from xadflow.plugins import registered

GROUP = "xadflow.explainers"


@dataclass(frozen=True)
class Judgement:
    """What a detector that had no part in a counterfactual says of it, on the stored 8-bit image."""

    name: str
    version: int
    score: float
    threshold: float
    is_normal: bool


@dataclass(frozen=True)
class Counterfactual:
    """One answer to "what would have to change": an 8-bit image and its figures.

    `image` is uint8 [C,H,W]; score, p_value and is_normal are the detector's on that decoded image. Distances are
    between the two 8-bit images on the [0,1] scale: `l1` = sum |d|, `l2` = sqrt(sum d^2) over all C*H*W values;
    `changed_fraction` is the share of pixels with any channel changed. `donor_id` is the image_id whose pixels it took,
    None where it took none; `judges` is filled in by whoever asks them, never by the explainer.
    """

    concept: int
    image: NDArray[np.uint8]
    score: float
    p_value: float
    is_normal: bool
    l1: float
    l2: float
    changed_fraction: float
    donor_id: str | None = None
    judges: tuple[Judgement, ...] = ()


@dataclass(frozen=True)
class ShownImage:
    """Another picture an explainer shows; `minimum` and `maximum` restore raw values of an 8-bit map."""

    name: str
    image: NDArray[np.uint8]
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Explanation:
    """What one explainer says of one image; `heatmap` is raw float32 [H,W] or None."""

    heatmap: NDArray[np.float32] | None = None
    counterfactuals: tuple[Counterfactual, ...] = ()
    images: tuple[ShownImage, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Explainer(Protocol):
    """One explainer: contract (docs/explanation/architecture.md)."""

    @property
    def name(self) -> str:
        """The name it is registered under."""

    @property
    def version(self) -> str:
        """Changes whenever the same image and detector could give another explanation (code version + settings)."""

    @property
    def seed(self) -> int:
        """Seed of whatever it draws at random."""

    def explain(self, detector: Detector, images: Tensor) -> list[Explanation]:
        """One explanation an image; `images` float32 [B,C,H,W] in [0,1] that are 8-bit values / 255."""


@dataclass(frozen=True)
class Traits:
    """What an explainer may say of itself beside the protocol, by members of these names; as here where it does not.

    requires  a protocol of the methods that it needs of a detector beside those that every detector has
    settings  its settings, recorded with each row where they are `xadflow.explainers.settings.ExplainerSettings`
    """

    requires: type | None = None
    settings: object = None


def traits(explainer: Explainer | type[Any]) -> Traits:
    """What an explainer says of itself, or its class."""
    return Traits(**{one.name: getattr(explainer, one.name) for one in fields(Traits) if hasattr(explainer, one.name)})


def _explainers() -> Mapping[str, Any]:
    return registered(GROUP)


def explainer_names() -> list[str]:
    """Names of all registered explainers, third parties' included."""
    return sorted(_explainers())


def explainer_class(name: str) -> Any:
    """The class registered under a name. Raises UnknownName."""
    if name not in _explainers():
        raise unknown_name("no explainer of that name", name, explainer_names())
    return _explainers()[name].load()


def why_unfit(name: str, detector_method: str) -> str | None:
    """Why an explainer can say nothing of any detector of a method, None where it can. Raises UnknownName."""
    needed = traits(explainer_class(name)).requires
    if needed is None or issubclass(detector_class(detector_method), needed):
        return None
    has = ", ".join(sorted(one for one in vars(needed) if not one.startswith("_")))
    return f"It needs a detector with `{has}`, which {detector_method} does not have."


def build_explainer(name: str, **settings: object) -> Explainer:
    """A new explainer. Raises UnknownName, or BadSettings for settings it does not know."""
    explainer: Explainer = explainer_class(name)(**settings)
    return explainer


@runtime_checkable
class TakesDonors(Protocol):
    """What an explainer has beside the protocol that takes pixels from normal images of the product."""

    def with_donors(self, bank: Any) -> Any:
        """The same explainer with a bank of donors, an `xadflow.explainers.transplant.DonorBank`."""


def takes_donors(name: str) -> bool:
    """Whether an explainer takes pixels from normal images of the product, and has to be given them by `with_donors`.

    Raises UnknownName.
    """
    return issubclass(explainer_class(name), TakesDonors)
