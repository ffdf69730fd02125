"""Settings of the diverse counterfactuals: every weight and size, with the measured configuration as the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from xadflow.detectors.base import Detector, traits
from xadflow.digests import sha256_json
from xadflow.explainers.diverse.losses import AnomalyProbability
from xadflow.explainers.settings import ExplainerSettings, Share
from xadflow.explainers.trained import Wanted
from xadflow.settings.of_methods import MethodSettings

Weight = Annotated[float, Field(ge=0.0)]
Positive = Annotated[int, Field(ge=1)]


Form = Literal["calibrated", "logit", "exponential"]
_YOUNGER: Mapping[str, object] = {
    "size_px": None,
    "within": "image",
    "paint": "image",
    "pairs": 0.0,
    "pair_images": 8,
    "pair_rounds": 6,
    "slack": 0.2,
    "transplants": 0,
    "pretrain": 0,
    "pretrain_rate": 2e-3,
    "companions": [],
    "feature_diversity": 0.0,
    "feature_trunk": {"trunk": "lite0", "stages": [1, 2, 3]},
}
_FORMS: Mapping[object, Form] = {"logit": "logit", "radius": "exponential"}


class Companion(MethodSettings):
    """A detector that is fitted for a generator's training alone."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)


class FeatureTrunk(MethodSettings):
    """Where the difference of two edits is measured."""

    trunk: str = "lite0"
    stages: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 2, 3)


class DiverseSettings(ExplainerSettings):
    """Defaults are those of docs/explanation/methods.md, "Diverse counterfactuals".

    concepts          K, how many alternatives an image gets
    probability       what the anomaly probability of a score is: calibrated (threshold and temperature of the
                      detector), logit (the score is one, as of BCE) or exponential (1 - exp(-score / typical), for
                      distances), where typical is 1 or, with `typical: median`, the median of held-out normals. auto:
                      what the detector's own loss says (`score_is`: logit of bce, exponential of hsc, fcdd and
                      fcdd_conv), else calibrated, whose temperature is often so high without known defects that nothing
                      is left to learn
    size_px           longer side at which the generator works; what it changes there is enlarged onto the image, so
                      that fine grain stays and a step is cheap. The detector judges at its own size, discriminator and
                      concept classifier at this one. None: the detector's own
    within            where an image may change. p_value: where the detector's map is hotter than those of val normals
                      at the same place (places.py), for detectors with a map. heat: changes are scaled by the map over
                      the threshold (at most 1), for detectors with a map of distances (fcdd, fcdd_conv). image:
                      anywhere
    paint             image: the generator draws the whole image (on a reduced canvas: the change). mask: it draws an
                      image and a mask of what to take from it; elsewhere every value stays. For images larger than some
                      48 px
    width, patch      of the generator; patch None: 2 px up to 48 px, else 4
    adversarial .. proximity   weights l_gan, l_phi, l_rec, l_cyc, l_r, l_div, l_prox of the terms; 0 leaves one out
    pairs             weight of the regression on pairs (flawed image, that image without the flaw), winner takes all of
                      the concepts; 0 learns from no pairs. `pair_images` pairs a step, and half as many normals that
                      are to stay; `pair_rounds` synthetic defects of each train normal; `slack`: share of the
                      regression in which every concept follows every target
    transplants       how many transplants of an anomaly are targets as well, where the detector has donors
    pretrain          so many of the steps are regression on pairs alone, at `pretrain_rate`: cheap, since no detector
                      is asked
    companions        further detectors whose score counts as the explained one's does, [{method, settings}]: what
                      pleases unlike detectors is less often a weakness of one. They are fitted for the training and not
                      kept
    feature_diversity weight of the diversity measured in the stages of `feature_trunk`
    margin            cosine between two edits of an image above which they count as alike
    images            different images in a step, half of them normal; each goes through with every concept
    pure              chance that alpha is 0; else it is drawn from [0,1]
    learning_rate     of Adam (betas 0 and .9): constant for the first half, then linear down to `final` of it
    clip              largest norm of the generator's gradient
    noise             on what the concept classifier sees
    precision         bfloat16: the three networks under autocast, detectors and losses in float32; up to twice as fast
                      on a CPU that has it (avx512_bf16, amx_bf16), many times slower on one that has not
    """

    concepts: Annotated[int, Field(ge=1, le=4)] = 2
    probability: Literal["auto", "calibrated", "logit", "exponential"] = "auto"
    typical: Literal["one", "median"] = "one"
    size_px: Annotated[int, Field(ge=16)] | None = None
    within: Literal["image", "heat", "p_value"] = "image"
    paint: Literal["image", "mask"] = "image"
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 24
    patch: Literal[2, 4] | None = None
    adversarial: Weight = 1.0
    score: Weight = 1.0
    reconstruction: Weight = 10.0
    cycle: Weight = 0.0
    concept: Weight = 1.0
    diversity: Weight = 2.0
    feature_diversity: Weight = 0.0
    feature_trunk: FeatureTrunk = FeatureTrunk()
    pairs: Weight = 0.0
    pair_images: Annotated[int, Field(ge=2, multiple_of=2)] = 8
    pair_rounds: Positive = 6
    slack: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    transplants: Annotated[int, Field(ge=0, le=8)] = 0
    pretrain: Annotated[int, Field(ge=0)] = 0
    pretrain_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    companions: tuple[Companion, ...] = ()
    margin: Annotated[float, Field(ge=-1.0, lt=1.0)] = 0.3
    proximity: Weight = 1.0
    steps: Positive = 1600
    images: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    pure: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    final: Share = 0.05
    clip: Annotated[float, Field(gt=0.0)] = 5.0
    noise: Weight = 0.2
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _what_learns_from_pairs_has_them(self) -> DiverseSettings:
        if self.pairs == 0.0 and (self.pretrain or self.transplants):
            raise ValueError("pretrain and transplants learn from pairs: set their weight, pairs, above 0")
        if self.pretrain > self.steps:
            raise ValueError("pretrain is a part of the steps, so it is at most that many")
        if self.paint == "mask" and self.size_px is not None:
            raise ValueError("paint: mask draws at the image's own size: leave size_px out")
        return self

    @property
    def wanted(self) -> Wanted | None:
        """What the caller has to give for a training; None: nothing beside images."""
        found = Wanted(
            rounds=self.pair_rounds if self.pairs else 0,
            transplants=self.transplants,
            companions=tuple((one.method, one.settings) for one in self.companions),
            features=(self.feature_trunk.trunk, self.feature_trunk.stages) if self.feature_diversity else None,
            held_out=self.within == "p_value",
        )
        return None if found == Wanted() else found

    def told(self) -> dict[str, Any]:
        """All settings as JSON; younger ones at their default are left out, so that versions of before stay as they
        are.
        """
        told = self.model_dump(mode="json")
        return {name: value for name, value in told.items() if name not in _YOUNGER or value != _YOUNGER[name]}

    def version(self, code_version: str) -> str:
        """As every explainer's, of :meth:`told`."""
        return f"{code_version}-{sha256_json(self.told())[:8]}"

    def anomaly_probability(self, detector: Detector) -> AnomalyProbability:
        """phi of this detector's scores."""
        calibration, form = detector.calibration, self.probability
        if form == "auto":
            form = _FORMS.get(traits(detector).score_is, "calibrated")
        if form == "calibrated":
            return AnomalyProbability("logistic", calibration.threshold, calibration.temperature)
        if form == "logit":
            return AnomalyProbability("logistic")
        ordered = sorted(float(score) for score in calibration.normal_scores)
        typical = ordered[len(ordered) // 2] if self.typical == "median" else 1.0
        return AnomalyProbability("exponential", 0.0, max(typical, 1e-6))
