"""Settings of a detector that looks at large images window by window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from xadflow.detectors.base import Detector, Staged, build_detector, traits
from xadflow.errors import BadSettings
from xadflow.settings.of_methods import MethodSettings, validated


class TiledSettings(MethodSettings):
    """Every choice of it; `tile_px` and `overlap_px` of a data set in params.yaml fill in the first four.

    inner, inner_settings  the method that looks at one window, and its settings
    tile_px, overlap_px    side of a window, and how much of it the next one shows again; at most half of it
    max_tiles              windows that are learned from, a seeded sample of all windows of all normals: bounds memory
    batch_tiles            windows in one pass, always so many: a score does not depend on what else was scored
    decides                map: the image score is the highest heat; window: the highest score of a window as the inner
                           detector gives it, for defects that fill much of a window
    trunk                  the packaged trunk of `inner`, filled in
    """

    inner: str = "fcdd"
    inner_settings: dict[str, Any] = Field(default_factory=dict)
    tile_px: Annotated[int, Field(ge=16, le=1024)] = 128
    overlap_px: Annotated[int, Field(ge=0, le=512)] = 32
    max_tiles: Annotated[int, Field(ge=2)] = 2000
    batch_tiles: Annotated[int, Field(ge=1, le=256)] = 16
    decides: Literal["map", "window"] = "map"
    trunk: str | None = None


def tiled_settings(given: Mapping[str, object]) -> tuple[TiledSettings, Detector]:
    """The settings checked, and a new detector of one window.

    Raises BadSettings for an overlap of more than half a window, and for a method that cannot look at windows: one
    whose training is several pieces of work, or that needs a class for each pixel.
    """
    checked = validated(TiledSettings, given, "detector tiled")
    if 2 * checked.overlap_px > checked.tile_px:
        raise BadSettings(
            "windows overlap by at most half of their side",
            seen=f"overlap_px {checked.overlap_px}, tile_px {checked.tile_px}",
            next_step="lower overlap_px, or raise tile_px, in params.yaml",
        )
    inner = build_detector(checked.inner, **checked.inner_settings)
    if isinstance(inner, Staged):  # of several trainings, or of scenes: both have their own way
        raise BadSettings(
            f"{checked.inner} does not look at images window by window",
            seen=f"tile_px {checked.tile_px}",
            next_step="take fcdd or padim in retrain.detectors, or leave tile_px out of the data set in params.yaml",
        )
    its = traits(inner).settings
    trunk = getattr(its, "trunk", None) or getattr(its, "network", None)
    return checked.model_copy(update={"trunk": trunk}), inner
