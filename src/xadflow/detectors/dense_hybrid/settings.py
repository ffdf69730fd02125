"""Settings of `dense_hybrid`: two configurations, each a full set of values, and what a user changes in them.

`compact` (the default of every field) trains in minutes without a GPU; `published` has the losses, pastes and schedule
of the authors' released code for Ladder-DenseNet on StreetHazards, for a GPU. What is theirs:
docs/decisions/0008-dense-hybrid.md.
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
Part = Literal["hybrid", "likelihood", "posterior"]


class StageSettings(MethodSettings):
    """How one stage is trained; both have these.

    epochs, min_steps  as many steps as `epochs` passes over the normals take, at least `min_steps`
    learning_rate      highest, of the new layers; learning_rate_trunk of the pretrained ones
    curve              cosine to 0, or constant; warm_up: share of the steps over which the rate climbs
    frozen_bn          batch normalisation keeps its running statistics, those of the dataset head excepted: pastes
                       would move them, and small batches are possible
    flip               mirror images left to right at random: off where a side is part of what is normal
    jitter             images are enlarged by a factor between these
    crop_px            side of the square that is cut out; None: all of it. What lies outside an image is void
    """

    epochs: Annotated[float, Field(gt=0.0)] = 0.01
    min_steps: Positive = 280
    batch_size: Positive = 12
    learning_rate: Rate = 2e-3
    learning_rate_trunk: Rate = 5e-4
    weight_decay: Weight = 1e-2
    betas: tuple[Share, Share] = (0.9, 0.999)
    adam_eps: Rate = 1e-8
    curve: Literal["cosine", "constant"] = "cosine"
    warm_up: Share = 0.2
    frozen_bn: bool = False
    flip: bool = True
    jitter: tuple[Rate, Rate] = (1.0, 1.0)
    crop_px: Positive | None = None

    @model_validator(mode="after")
    def _in_order(self) -> StageSettings:
        if self.jitter[0] > self.jitter[1]:
            raise ValueError("jitter is a smallest and a largest factor")
        return self

    def steps(self, normals: int) -> int:
        """Training steps for this many normal images."""
        return max(self.min_steps, round(self.epochs * normals / self.batch_size))

    def rate_share(self, steps: int, number: int) -> float:
        """Of the highest rate at a step counted from 0: the climb of the warm-up, then the curve."""
        at = (number + 0.5) / steps
        if at < self.warm_up:
            return at / self.warm_up
        if self.curve == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * (at - self.warm_up) / max(1.0 - self.warm_up, 1e-9)))


class HybridSettings(StageSettings):
    """Stage 2, with negatives; the weights are those of reading.py.

    learning_rate_head  of the new dataset head, which a small rate would hardly move
    form                code: as released, L_cls + beta L_x + dataset L_d, L_d over all pixels; paper: Eq. 15, L_d in
                        two means, `dataset` for the inliers and beta for the pastes
    energy              L_x, of LSE(s) on pastes: raw (no lower bound: it can run away), hinge max(0, LSE -
                        margin_out)^2, softplus, or two_sided, the hinge and max(0, margin_in - LSE)^2 on inliers
    ignore_void         void pixels do not teach d_in (form code; form paper never had them)
    balanced            form code: pastes and the rest count alike in L_d, whatever area they have
    """

    min_steps: Positive = 110
    learning_rate: Rate = 4e-4
    learning_rate_trunk: Rate = 4e-4
    learning_rate_head: Rate = 5e-3
    weight_decay: Weight = 0.0
    warm_up: Share = 0.0
    frozen_bn: bool = True
    form: Literal["code", "paper"] = "code"
    beta: Weight = 0.05
    dataset: Weight = 1.0
    energy: Literal["raw", "hinge", "softplus", "two_sided"] = "two_sided"
    margin_out: float = -1.0
    margin_in: float = 4.0
    ignore_void: bool = True
    balanced: bool = False

    @model_validator(mode="after")
    def _margins_in_order(self) -> HybridSettings:
        if self.energy == "two_sided" and self.margin_in <= self.margin_out:
            raise ValueError("margin_in must lie above margin_out")
        return self


class PasteSettings(MethodSettings):
    """How negatives come into scenes.

    pastes        a scene
    rectangle     share of them that are rectangles; the rest are unions of two `shapes`: blobs, polygons, or regions of
                  the negative's own segmentation, made of its brightness where none is given
    smallest_px, largest  sides are drawn from smallest_px, smallest_px + 8, ... up to `largest` of the scene's shorter
                          side
    zoom          the negative is enlarged by a factor between these
    feather_px    the seam over which a paste fades in, void; 0: hard edges
    tone          as_is, or borrowed: mean and spread of the pixels under the same shape in another scene, so that
                  brightness and contrast are no cue
    control       share of pastes that are pieces of another scene, with their own classes and d_in: where pastes have
                  edges of both kinds, an edge is no cue
    """

    pastes: Positive = 2
    rectangle: Share = 0.5
    shapes: Literal["blobs", "polygons", "regions"] = "polygons"
    smallest_px: Positive = 16
    largest: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    zoom: tuple[Rate, Rate] = (0.8, 1.25)
    feather_px: Annotated[int, Field(ge=0)] = 0
    tone: Literal["as_is", "borrowed"] = "as_is"
    control: Share = 0.0

    @model_validator(mode="after")
    def _leaves_negatives(self) -> PasteSettings:
        if self.control == 1.0:
            raise ValueError("control 1 leaves no negative to learn from: choose less")
        if self.zoom[0] > self.zoom[1]:
            raise ValueError("zoom is a smallest and a largest factor")
        return self


class ScoreSettings(MethodSettings):
    """Map and image score.

    part       hybrid ln P(d_out|x) - ln p_hat(x); or one of the two alone, likelihood or posterior. No training depends
               on it
    exact      logits are enlarged, and the map made of them; false: the map is made small and enlarged, K times less
               work and not the same
    smooth_px, hottest  the image score is the mean of the hottest `hottest` of the map after a mean over smooth_px x
                        smooth_px
    """

    part: Part = "hybrid"
    exact: bool = True
    smooth_px: Annotated[int, Field(ge=1, le=31)] = 3
    hottest: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01

    @model_validator(mode="after")
    def _has_a_middle(self) -> ScoreSettings:
        if self.smooth_px % 2 == 0:
            raise ValueError("smooth_px must be odd")
        return self


class DenseHybridSettings(MethodSettings):
    """Settings of `dense_hybrid`.

    net          of networks.NETS
    classes      labels: those of the scenes; one: all is one class, no labels are needed, ln p_hat is its logit
    negatives    outliers: the data set under `outliers` of this one in params.yaml; synthetic: drawn by `synthesiser`,
                 for want of better (it also draws what the temperature is fitted on)
    precision    of the net while training; losses and scores are float32
    sheets       sample sheets drawn while a stage trains, for its MLflow run
    """

    configuration: Literal["compact", "published"] = "compact"
    net: str = "mobile"
    classes: Literal["labels", "one"] = "labels"
    negatives: Literal["outliers", "synthetic"] = "outliers"
    synthesiser: Synthesiser = "defects"
    precision: Literal["float32", "bfloat16"] = "float32"
    closed: StageSettings = StageSettings()
    hybrid: HybridSettings = HybridSettings()
    paste: PasteSettings = PasteSettings()
    score: ScoreSettings = ScoreSettings()
    sheets: Annotated[int, Field(ge=0)] = 1


_PUBLISHED_STAGE: Mapping[str, Any] = {
    "min_steps": 1,
    "weight_decay": 0.0,
    "adam_eps": 1e-7,
    "warm_up": 0.0,
    "frozen_bn": False,
    "jitter": (0.5, 2.0),
    "crop_px": 768,
}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "closed": {
        **_PUBLISHED_STAGE,
        "epochs": 120.0,
        "batch_size": 16,
        "learning_rate": 4e-4,
        "learning_rate_trunk": 1e-4,
    },
    "hybrid": {
        **_PUBLISHED_STAGE,
        "epochs": 40.0,
        "batch_size": 12,
        "learning_rate": 1e-5,
        "learning_rate_trunk": 2.5e-6,
        "learning_rate_head": 1e-5,
        "beta": 0.03,
        "dataset": 0.3,
        "energy": "raw",
        "ignore_void": False,
    },
    "paste": {"pastes": 1, "shapes": "regions", "largest": 1.0, "zoom": (0.5, 2.0)},
}
"""What `configuration: published` puts in the place of the defaults; the net is named by itself."""


def dense_hybrid_settings(given: Mapping[str, object], method: str) -> DenseHybridSettings:
    """Settings checked; what is not given comes from the configuration.

    Raises:
        BadSettings: naming the key, the value and the nearest known key.
    """
    return configured(DenseHybridSettings, given, PUBLISHED, f"detector {method}")
