"""Settings of the transplants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from xadflow.explainers.settings import ExplainerSettings, Share

Positive = Annotated[int, Field(ge=1)]


class TransplantSettings(ExplainerSettings):
    """What a transplant search does; what each choice was measured with: docs/decisions/0011-transplants.md.

    alternatives       K, how many counterfactuals an image gets, each from another donor
    candidates         donors that are tried for them; at least K
    target_share       share of the held-out normals that may be less anomalous than a counterfactual: the search goes
                       on below the threshold, down to this quantile of their scores, for a counterfactual that is only
                       just normal to one detector is often still anomalous to another
    rungs              shares of the image that a region may have, in the order they are tried; the last is all of it.
                       In an image of more than a million pixels, where a defect is often smaller than a cell, one cell
                       is tried before them, then two, four and so on
    dilation, feather  of the region's border, as shares of the side of a square of as many pixels: how far it is
                       widened, and the sigma of its blend
    shrink_rounds      attempts to take the coolest cells out of a region that has become normal
    mask_steps         gradient steps on each region's mask (0: none), for detectors that are differentiable
    complete           at the end cells joined to a region are taken in that have this share of its highest heat, and
                       its holes and gaps, where the image stays as normal: a person sees a rest that a detector does
                       not (0: the region as it was found)
    parts              at most so many connected parts of a region are shown mended alone
    bank               at most so many donors are kept with a detector version, chosen by k-centre in trunk features
    """

    alternatives: Positive = 3
    candidates: Positive = 4
    target_share: Share = 0.85
    rungs: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)] = (
        0.04,
        0.08,
        0.13,
        0.2,
        0.29,
        0.4,
        0.55,
        0.75,
        1.0,
    )
    dilation: Annotated[float, Field(ge=0.0, le=0.25)] = 0.0235
    feather: Annotated[float, Field(ge=0.0, le=0.25)] = 0.03125
    shrink_rounds: Annotated[int, Field(ge=0, le=16)] = 2
    mask_steps: Annotated[int, Field(ge=0, le=1000)] = 0
    complete: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    parts: Annotated[int, Field(ge=0, le=8)] = 3
    bank: Annotated[int, Field(ge=1, le=4096)] = 256

    came_later: ClassVar[Mapping[str, object]] = {"complete": 0.0}

    @field_validator("rungs")
    @classmethod
    def _climb(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)) or rungs[-1] != 1.0:
            raise ValueError("the rungs must grow, and the last must be 1.0, the whole image")
        return rungs
