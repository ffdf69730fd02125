"""Settings of `utad`: two configurations, each a full set of values, and what a user changes in them.

`compact` (the default of every field) trains in minutes without a GPU; `published` has the architecture, the loss
weights and the schedule of the authors' released code, for 256 px and a GPU. Which values are theirs and which are
ours, and why: docs/decisions/0007-utad.md.

At the end, how fast each stage learns at each step: a warm-up, then a cosine or the published drops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from xadflow.defects.synthesisers import Synthesiser
from xadflow.settings.of_methods import MethodSettings, configured

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Rate = Annotated[float, Field(gt=0.0)]
Term = Literal["x-x_hat", "x-m_hat", "var-x_hat", "x_hat-m", "x-m", "m-m_hat", "low-x_hat", "low-m"]


class StageSettings(MethodSettings):
    """How one stage is trained; both have these.

    epochs, min_steps  as many steps as `epochs` passes over the normals take, at least `min_steps`
    learning_rate      highest, of the network; learning_rate_judge of the image discriminators
    betas              of Adam
    curve              cosine to 0; or steps: as published, the first stage x.1 at 1/2 and 7/8 of it, the second x.5
                       each tenth
    warm_up            share of the steps over which the rate climbs, and before which only the reconstruction is
                       trained
    flips              mirrored copies that count as normal
    rotation, crop     most degrees, and least share of the area that a random crop keeps; 0 and 1: off. A class that
                       always lies the same way needs them off: normal variation would outgrow the defects
    """

    epochs: Annotated[float, Field(gt=0.0)] = 0.01
    min_steps: Positive = 250
    batch_size: Positive = 32
    learning_rate: Rate = 3e-3
    learning_rate_judge: Rate = 3e-4
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Weight = 0.0
    curve: Literal["cosine", "steps"] = "cosine"
    warm_up: Share = 0.1
    flips: Literal["none", "horizontal", "both"] = "both"
    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0

    def steps(self, normals: int) -> int:
        """Training steps for this many normal images."""
        return max(self.min_steps, round(self.epochs * normals / self.batch_size))


class ImpressionSettings(StageSettings):
    """IE-Net, stage 1; the fields in the order of its loss are the weights of the terms.

    form              published, or compact: no layer at full resolution, and a bottleneck of 1/16 of the pixels
    width, code       channels of the narrowest block; numbers in mu, and in sigma
    halvings          compact only: log2 of the stride, None: as many as the sides allow, up to 4
    z_channels        compact only; None: as many as make the bottleneck 1/16 of the pixels
    dropout           of whole channels of the bottleneck
    learning_rate_code  of the two networks that estimate mutual information
    corrupt           share of images that the encoder sees with a defect while the target stays clean ("robust
                      impression", not in the paper), drawn by `synthesiser`
    """

    form: Literal["compact", "published"] = "compact"
    width: Positive = 6
    code: Positive = 64
    halvings: Annotated[int, Field(ge=2, le=6)] | None = None
    z_channels: Positive | None = None
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    reconstruction: Rate = 100.0
    adversarial: Weight = 0.0
    mi_local: Weight = 0.45
    mi_global: Weight = 0.15
    prior: Weight = 0.01
    variation: Weight = 0.0
    similarity: Weight = 0.0
    edges: Weight = 0.0
    learning_rate_code: Rate = 1e-3
    batch_size: Annotated[int, Field(ge=2)] = 32  # the estimators need another image's map
    corrupt: Share = 0.85
    synthesiser: Synthesiser = "defects"


class ExpertSettings(StageSettings):
    """Expert-Net, stage 2; the fields in the order of its loss are the weights of the terms.

    form            residual: adds detail to the impression (ours); munit: two auto-encoders that exchange content, as
                    published
    width, detail   channels of the widest (residual) or first (munit) layer; numbers in the detail code
    reconstruction  |x_rec - x| + |m_rec - m|, munit only; content: |C(x_hat) - C(m)| + |C(m_hat) - C(x)|, munit only
    code            |S(x_hat) - S(x)| + |S(m_hat) - d|
    paired_image, paired_impression  |x_hat - x| and |m_hat - m|: the pairs are known. Not in the published code
    """

    form: Literal["residual", "munit"] = "residual"
    width: Positive = 32
    detail: Positive = 8
    adversarial: Weight = 0.3
    reconstruction: Weight = 10.0
    code: Weight = 1.0
    content: Weight = 1.0
    paired_image: Weight = 10.0
    paired_impression: Weight = 10.0
    edges: Weight = 0.0
    min_steps: Positive = 150
    batch_size: Positive = 16
    learning_rate: Rate = 2e-3
    betas: tuple[Share, Share] = (0.5, 0.99)

    @model_validator(mode="after")
    def _learns_something(self) -> ExpertSettings:
        inside = self.reconstruction if self.form == "munit" else 0.0
        if not (self.paired_image or self.paired_impression or self.code or inside):
            raise ValueError("the expert has nothing to learn from: give paired_image a weight")
        return self


class MapSettings(MethodSettings):
    """The anomaly map e: a weighted sum of terms, each in standard deviations of held-out normals.

    terms        weight of each: D(x, x_hat), D(x, m_hat), Var(x_hat), D(x_hat, m), D(x, m), D(m, m_hat), and `low-`:
                 the squared difference after a blur of both
    distance     D: squared, absolute or 1 - SSIM of the grey values, or perceptual: of features of the network
                 `perceptual`
    samples      detail codes a reconstruction is averaged over; 1: that of the image itself, and no variance
    jitter       spread of the other codes around the image's own
    low_pass, blur  sigma of the `low-` terms' and of the final blur, shares of the shorter side
    standardise  false: the plain sum, cut at 0
    """

    terms: dict[Term, float] = {"x-x_hat": 1.0, "low-x_hat": 1.0}
    distance: Literal["squared", "absolute", "ssim", "perceptual"] = "squared"
    perceptual: Literal["none", "lite0", "mobilenet_v2"] = "none"
    samples: Positive = 1
    jitter: Weight = 0.1
    low_pass: Annotated[float, Field(ge=0.0, le=0.25)] = 0.02
    blur: Annotated[float, Field(ge=0.0, le=0.25)] = 0.015625
    standardise: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> MapSettings:
        if not any(self.terms.values()):
            raise ValueError("a map needs a term with a weight")
        if self.terms.get("var-x_hat") and self.samples < 2:
            raise ValueError("var-x_hat is a variance over samples: set samples to 2 or more")
        if (self.distance == "perceptual") != (self.perceptual != "none"):
            raise ValueError("distance perceptual goes with a network under perceptual, and the other way round")
        return self


class ScoreSettings(MethodSettings):
    """The image score: weights of z(mean of the hottest `hottest` of the map) and z(k-NN of mu and sigma).

    A part of weight 0 does not enter, and is reported all the same. `bank`: at most so many normals are neighbours.
    """

    map: Weight = 1.0
    knn: Weight = 0.0
    hottest: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    neighbours: Positive = 5
    bank: Positive = 4096

    @model_validator(mode="after")
    def _something_enters(self) -> ScoreSettings:
        if self.map + self.knn <= 0:
            raise ValueError("the image score needs a part with a weight")
        return self


class UtadSettings(MethodSettings):
    """Settings of `utad`; `sheets`: sample sheets drawn while a stage trains, for its MLflow run."""

    configuration: Literal["compact", "published"] = "compact"
    impression: ImpressionSettings = ImpressionSettings()
    expert: ExpertSettings = ExpertSettings()
    map: MapSettings = MapSettings()
    score: ScoreSettings = ScoreSettings()
    sheets: Annotated[int, Field(ge=0)] = 2


PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "impression": {
        "form": "published",
        "width": 32,
        "code": 128,
        "adversarial": 0.1,
        "mi_local": 1.5,
        "mi_global": 0.5,
        "prior": 0.1,
        "epochs": 400.0,
        "min_steps": 1,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "learning_rate_judge": 1e-4,
        "learning_rate_code": 1e-4,
        "weight_decay": 1e-4,
        "curve": "steps",
        "warm_up": 0.005,
        "rotation": 45.0,
        "crop": 0.8,
        "corrupt": 0.0,
    },
    "expert": {
        "form": "munit",
        "width": 64,
        "adversarial": 1.0,
        "paired_image": 0.0,
        "paired_impression": 0.0,
        "epochs": 0.01,
        "min_steps": 500_000,
        "batch_size": 1,
        "learning_rate": 1e-4,
        "learning_rate_judge": 1e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-4,
        "curve": "steps",
        "warm_up": 0.0,
    },
    "map": {"terms": {"x-x_hat": 1.0, "x-m_hat": 1.0, "var-x_hat": -1.0, "x_hat-m": -1.0}, "samples": 10},
    "score": {"knn": 1.0},
}
"""What `configuration: published` puts in the place of the defaults."""


def utad_settings(given: Mapping[str, object], method: str) -> UtadSettings:
    """Settings checked; what is not given comes from the configuration.

    Raises:
        BadSettings: naming the key, the value and the nearest known key.
    """
    return configured(UtadSettings, given, PUBLISHED, f"detector {method}")


StageName = Literal["impression", "expert"]
DROPS: Mapping[StageName, tuple[tuple[float, ...], float]] = {
    "impression": ((0.5, 0.875), 0.1),  # epochs 200 and 350 of 400
    "expert": (tuple(number / 10 for number in range(1, 10)), 0.5),  # every 50,000 of 500,000 iterations
}


def rate_share(stage: StageName, settings: StageSettings, steps: int, number: int) -> float:
    """Of the highest rate at a step counted from 0: the climb of the warm-up, then the curve."""
    at = (number + 0.5) / steps
    climb = min(1.0, at / settings.warm_up) if settings.warm_up > 0 else 1.0
    if settings.curve == "cosine":
        return climb * 0.5 * (1.0 + math.cos(math.pi * at))
    drops, factor = DROPS[stage]
    return float(climb * factor ** sum(at >= drop for drop in drops))


def is_warm(settings: StageSettings, steps: int, number: int) -> bool:
    """Whether the warm-up is over at a step counted from 0, and every loss counts."""
    return (number + 0.5) / steps >= settings.warm_up
