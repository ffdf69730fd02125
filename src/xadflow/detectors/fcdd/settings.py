"""Settings of FCDD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from xadflow.defects.synthesisers import Synthesiser
from xadflow.errors import BadSettings
from xadflow.networks.pretrained import trunk_spec
from xadflow.settings.of_methods import MethodSettings, validated

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]

FINER = (2, 3)  # stages of the heatmap, unless said otherwise; docs/decisions/0010-finer-map.md


class FCDDSettings(MethodSettings):
    """Every choice of the method; a None is what the chosen head was measured with.

    trunk, stages     pretrained network, and which of its seven stages give features; see networks/pretrained.py
    map_stages        stages of the heatmap, which has whitening and a head of its own, trained against the masks of
                      synthetic (and, where they have some, known) defects; of one stage or several the grid is that of
                      the finest. (): the heatmap is the score's own low-resolution map, upsampled. None: stages 2 and 3
                      (cells of 8 px) where the score has an image-level Mahalanobis head on coarser cells, else ()
    map_normals       most normal images that the heatmap's head learns from, a seeded sample, which bounds memory
    head              mahalanobis (`outputs` rows in V, see heads.py) or scalar (`hidden` channels; 0: one 1x1 alone)
    whitening         location or channel; each location's covariance is shrunk towards the one of all locations by
                      `shrinkage` (None: fully where there are fewer images than channels, else not at all), then
                      `whitening_floor` * I is added
    pool_share        share of the cells, the hottest, whose mean is the image score
    level             image: one label an image; pixel: masks, with `defect_area` as the m of the loss
    synthesiser       what draws synthetic defects, see synthesisers.py: `synthetic_rounds` of them for each normal
                      image
    flips             whose mirrored copies are learned from too: all, known (the known defects alone) or none, for
                      products where a mirrored one is a defect
    max_normals       of a larger training set a seeded sample of this many is used, which bounds memory
    epochs, min_steps passes over the normals, and the fewest steps whatever their number
    batch_*           images of each kind in one step; features: images in one pass through the trunk
    sigma_px          of the heatmap's Gaussian upsampling; None: 0.75 of its cells
    """

    trunk: Literal["lite0", "mobilenet_v2"] = "lite0"
    stages: tuple[int, ...] = (4, 5, 6)
    map_stages: tuple[int, ...] | None = None
    head: Literal["mahalanobis", "scalar"] = "mahalanobis"
    outputs: Positive = 16
    hidden: Annotated[int, Field(ge=0)] = 128
    whitening: Literal["location", "channel"] = "location"
    whitening_floor: Annotated[float, Field(gt=0.0)] = 0.03
    shrinkage: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    pool_share: Share | None = None
    level: Literal["image", "pixel"] = "image"
    defect_area: Literal["image", "region"] = "image"
    synthesiser: Synthesiser = "defects"
    synthetic_rounds: Annotated[int, Field(ge=0)] = 2
    flips: Literal["all", "known", "none"] = "all"
    max_normals: Annotated[int, Field(ge=2)] = 4096
    map_normals: Annotated[int, Field(ge=2)] = 1024
    epochs: Annotated[float, Field(gt=0.0)] = 6.0
    min_steps: Positive = 96
    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-2
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    batch_normals: Positive = 64
    batch_synthetic: Positive = 64
    batch_known: Positive = 32
    batch_features: Positive = 32
    upsampling: Literal["none", "dc", "coverage"] = "coverage"
    sigma_px: Annotated[float, Field(gt=0.0)] | None = None

    @property
    def all_stages(self) -> tuple[int, ...]:
        """Those of the score and of the heatmap."""
        return (*self.stages, *(self.map_stages or ()))

    @property
    def normal_copies(self) -> int:
        """Of each normal image: itself, and with `all` its left-right mirror image."""
        return 2 if self.flips == "all" else 1

    @property
    def known_copies(self) -> int:
        """Of each known defect: itself, and unless `none` three mirrored ones."""
        return 1 if self.flips == "none" else 4

    def pool(self) -> float:
        """Share of the cells that is pooled: a tenth for the Mahalanobis head, all for the published scalar one."""
        return self.pool_share or (0.1 if self.head == "mahalanobis" else 1.0)

    def of_map(self) -> FCDDSettings:
        """What the heatmap's own head is trained with: this, with masks, on the stages of the map."""
        changed = {"stages": self.map_stages, "map_stages": (), "head": "mahalanobis", "level": "pixel"}
        return self.model_copy(update=changed)

    def steps(self, normals: int) -> int:
        """Training steps for this many normal images."""
        return max(self.min_steps, round(self.epochs * normals / self.batch_normals))


def fcdd_settings(settings: Mapping[str, object], method: str) -> FCDDSettings:
    """Settings checked, the trunk's stages included, `map_stages` never None. Raises BadSettings."""
    checked = validated(FCDDSettings, settings, f"detector {method}")
    spec = trunk_spec(checked.trunk)
    stages, map_stages = len(spec.channels), checked.map_stages or ()
    if not checked.stages or not {*checked.stages, *map_stages} <= set(range(stages)):
        raise BadSettings(
            f"trunk {checked.trunk} has the stages 0 to {stages - 1}",
            seen=(checked.stages, map_stages),
            next_step="set `stages` and `map_stages` of the detector in params.yaml",
        )
    if checked.map_stages is None:
        is_coarse = spec.strides[min(checked.stages)] > spec.strides[min(FINER)]
        chosen = FINER if is_coarse and checked.head == "mahalanobis" and checked.level == "image" else ()
        return checked.model_copy(update={"map_stages": chosen})
    return checked
