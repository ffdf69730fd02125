"""How large the smallest defect with a mask is at the size that a detector sees, and what to set where it is small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xadflow.datasets.loading import decoded
from xadflow.datasets.manifest import Manifest, ManifestRow
from xadflow.settings import DatasetSettings

LEAST_PX = 4.0  # at input size: a smaller one is less than one cell of the finest features of a trunk
_LOOKED_AT = 400  # masks, evenly spread over the rows


@dataclass(frozen=True)
class SmallestDefect:
    """The image whose defect is smallest: its side (root of the area of the largest connected part) in px.

    `own_px` in the image itself, `seen_px` at the size that it is brought to.
    """

    path: str
    own_px: float
    seen_px: float

    def warning(self, dataset: str, its: DatasetSettings, own: tuple[int, int]) -> str | None:
        """What to say where it is too small to be seen; None where it is not. `own` is (height, width) of the image."""
        if self.seen_px >= LEAST_PX:
            return None
        height, width = its.shape_px
        told = (
            f"The smallest defect with a mask is {self.own_px:.0f} px wide and {self.seen_px:.1f} px at the "
            f"{height} x {width} px that a detector sees ({self.path}); below {LEAST_PX:g} px it is not seen. "
        )
        if self.own_px < LEAST_PX:
            return told + "It is as small in the image itself: take pictures from nearer, or with more pixels."
        if its.tile_px is not None:
            return told + f"Set size_px: [{own[0]}, {own[1]}] under datasets.{dataset} in params.yaml."
        return (
            told + f"Look at full size, window by window: set size_px: [{own[0]}, {own[1]}] and tile_px: 128 under "
            f"datasets.{dataset} in params.yaml."
        )


def smallest_defect(
    manifest: Manifest, rows: Sequence[ManifestRow], its: DatasetSettings
) -> tuple[SmallestDefect, ManifestRow] | None:
    """The smallest defect of rows that have a mask, with its row; None without any. Raises BadImage."""
    from scipy.ndimage import label

    masked = [row for row in rows if row.mask_path is not None]
    found: list[tuple[float, float, int]] = []
    for place, row in enumerate(masked[:: max(1, len(masked) // _LOOKED_AT)]):
        path = manifest.mask_of(row)
        assert path is not None
        pixels = decoded(path, row)
        parts, count = label((pixels if pixels.ndim == 2 else pixels.max(axis=2)) > 0)
        if count:
            area = int(np.bincount(parts.ravel())[1:].max())
            height, width = its.shape_px
            scale = min(1.0, math.sqrt(height * width / (row.height * row.width)))
            found.append((math.sqrt(area) * scale, math.sqrt(area), place))
    if not found:
        return None
    seen, own, place = min(found)
    row = masked[:: max(1, len(masked) // _LOOKED_AT)][place]
    return SmallestDefect(row.path, own, seen), row


def defect_warning(manifest: Manifest, rows: Sequence[ManifestRow], dataset: str, its: DatasetSettings) -> str | None:
    """What to say of the smallest defect of these rows, None where it is large enough or no mask tells."""
    found = smallest_defect(manifest, rows, its)
    return None if found is None else found[0].warning(dataset, its, (found[1].height, found[1].width))
